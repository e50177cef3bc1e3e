"""The one exception that users are meant to read."""


class TwoStageError(Exception):
    """A mistake that the user can mend: one line that names the thing, its value, and what is allowed.

    The command line prints the message without a traceback and exits with status 2.
    """


def refuse(what: str, value: object, allowed: str) -> TwoStageError:
    """The error for one bad value, e.g. ``refuse("num_inference_steps", 0, "an integer of at least 1")``."""
    return TwoStageError(f"{what}: {value!r} is not allowed; allowed: {allowed}")
