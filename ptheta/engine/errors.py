"""The two ways in which a user's request is refused.

Both carry one message of one line that says what was got, what is allowed and
what to do. The command line prints the message without a traceback and leaves
with `exit_code`; everything else that is raised is a defect of ptheta.
"""


class UsageError(ValueError):
    """The request itself is wrong: an unknown name, an impossible value."""

    exit_code = 2


class InputError(ValueError):
    """The request is fine, what it points to is not: a broken file, a wrong shape, a full disk."""

    exit_code = 1


def unknown(kind: str, got: str, allowed, fix: str = "") -> UsageError:
    """A UsageError for a name that does not exist, with the nearest one that does."""
    import difflib

    allowed = sorted(allowed)
    near = difflib.get_close_matches(str(got), allowed, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UsageError(f"{kind} {got!r} is unknown; allowed: {', '.join(allowed)}.{hint}{' ' + fix if fix else ''}")
