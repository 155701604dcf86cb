"""The headers Range (of a download) and Content-Range (of an upload's part)."""

import re

from maille_coordinator.api.errors import ApiError

_ONE_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})", re.ASCII)
_PART = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)


def wanted_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the byte after the last of a Range header; None: send everything.

    Several ranges at once, and units other than bytes, are answered with everything, as RFC 9110
    section 14.2 allows.

    Raises:
        ApiError: 416, the range begins behind the end.
    """
    found = _ONE_RANGE.fullmatch((header or "").strip())
    if found is None:
        return None
    first, last = found.groups()
    if not first and not last:
        return None
    if not first:
        start, end = max(0, size - int(last)), size
        satisfiable = int(last) > 0 and size > 0
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
        satisfiable = start < size
    if not satisfiable:
        raise ApiError(
            416,
            "range_not_satisfiable",
            f"the artefact has {size} bytes, the range {header!r} lies outside: ask for less",
            {"Content-Range": f"bytes */{size}"},
        )
    return start, end


def given_part(header: str | None) -> tuple[int, int, int | None] | None:
    """First byte, length and whole size (None: not known) of a Content-Range header.

    Raises:
        ApiError: 400, not such a header.
    """
    if header is None:
        return None
    found = _PART.fullmatch(header.strip())
    if found is not None:
        first, last = int(found[1]), int(found[2])
        total = None if found[3] == "*" else int(found[3])
        if first <= last and (total is None or last < total):
            return first, last + 1 - first, total
    raise ApiError(
        400,
        "invalid_content_range",
        f"{header[:80]!r} is no range of a part: send `Content-Range: bytes FIRST-LAST/SIZE`",
    )
