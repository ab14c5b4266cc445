"""A third process: it receives the event that a caller publishes, and says so."""

from __future__ import annotations

from messages import HelloReply

from micro_core import Service

service = Service("mailer", version="1.0.0")


@service.subscribe("greetings", queue="mailer")
async def mail(greeting: HelloReply) -> None:
    print(f"mailer   received the event: {greeting.greeting}", flush=True)


if __name__ == "__main__":
    service.run()
