"""What schemathesis must know of the API that no schema says."""

import uuid

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    """Makes a request right that is right by its schema alone."""
    if not case.meta.generation.mode.is_positive:
        return
    headers, query = case.headers or {}, case.query or {}
    # A key that is used again for another request is refused.
    if "Idempotency-Key" in headers:
        headers["Idempotency-Key"] = uuid.uuid4().hex
    # A position beyond the log's end is refused, and a view may be behind one before it.
    headers.pop("ExoDrive-Min-Position", None)
    # A cursor is what the server gave. One that it did not give is refused.
    query.pop("after", None)
