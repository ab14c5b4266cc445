"""What sings when a codec runs code that it was sent."""

from __future__ import annotations

import pickle

sung: list[str] = []


def sing(how: str) -> str:
    sung.append(how)
    return how


class Canary:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return sing, ("pickle",)


def bodies() -> list[bytes]:
    """What makes the canary sing in formats that run code."""
    name = f"{__name__}.sing"
    return [
        *(pickle.dumps(Canary(), protocol) for protocol in (0, 2, 5)),
        f"!!python/object/apply:{name} [yaml]\n".encode(),
        f"!!python/object/new:{name} [yaml]\n".encode(),
        f'{{"py/reduce": [{{"py/function": "{name}"}}, {{"py/tuple": ["json"]}}]}}'.encode(),
        f'{{"__class__": "{name}", "__args__": ["json"]}}'.encode(),
        f'__import__("{__name__}", fromlist=["sing"]).sing("eval")'.encode(),
    ]
