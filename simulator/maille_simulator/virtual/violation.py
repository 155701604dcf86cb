"""What a run must never show."""


class Violation(Exception):
    """Raised when a promise of the mesh was broken.

    Args:
        promise: which one, in a few words; the same bug gives the same words.
        text: what happened, in detail.
    """

    def __init__(self, promise: str, text: str) -> None:
        super().__init__(f"{promise}: {text}")
        self.promise = promise
        self.text = text

    def __reduce__(self) -> tuple[type["Violation"], tuple[str, str]]:
        return (Violation, (self.promise, self.text))
