"""What plugins share that speak to a backend's HTTP API at several addresses."""

from .endpoints import AnswerTooLong, Endpoints, Question, Reply

__all__ = ["AnswerTooLong", "Endpoints", "Question", "Reply"]
