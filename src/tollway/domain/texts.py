"""Texts that come from anywhere, made fit for the record, which holds neither NUL nor half a surrogate pair."""


def storable(text: str, chars_max: int) -> str:
    """The text, of at most `chars_max` characters; what cannot be stored is replaced by `?`."""
    if "\x00" in text or not text.isascii():
        text = text.replace("\x00", "?").encode("utf-8", "replace").decode()
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"
