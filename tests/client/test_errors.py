"""The exception tree: complete, drawn as it is, and filled with what helps."""

import re

import pytest

import maille
from maille import errors
from maille_protocol import ErrorCode, Outcome, OutcomeStatus

ENDS = [
    OutcomeStatus.FAILED,
    OutcomeStatus.REJECTED,
    OutcomeStatus.CANCELLED,
    OutcomeStatus.EXPIRED,
    OutcomeStatus.DEAD,
    OutcomeStatus.UNKNOWN,
]


def outcome(status: OutcomeStatus, code: ErrorCode) -> Outcome:
    return Outcome(bytes(16), status, code, b"", "pc", 2, 0, 0)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_code_stands_for_an_error(code: ErrorCode) -> None:
    assert code in errors.ERROR_OF_CODE
    for status in ENDS:
        error = errors.error_of(outcome(status, code), "because of this")
        assert isinstance(error, maille.MailleError)
        assert status == OutcomeStatus.UNKNOWN or "because of this" in str(error)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (OutcomeStatus.FAILED, ErrorCode.MODEL_ERROR, maille.ModelError),
        (OutcomeStatus.FAILED, ErrorCode.OUTCOME_UNKNOWN, maille.OutcomeUnknown),
        (OutcomeStatus.DEAD, ErrorCode.OUTCOME_UNKNOWN, maille.OutcomeUnknown),
        (OutcomeStatus.DEAD, ErrorCode.TOO_MANY_ATTEMPTS, maille.TaskDead),
        (OutcomeStatus.DEAD, ErrorCode.NODE_LOST, maille.TaskDead),
        (OutcomeStatus.EXPIRED, ErrorCode.DEADLINE, maille.TaskExpired),
        (OutcomeStatus.CANCELLED, ErrorCode.NONE, maille.TaskCancelled),
        (OutcomeStatus.REJECTED, ErrorCode.UNKNOWN_MODEL, maille.UnknownModel),
        (OutcomeStatus.REJECTED, ErrorCode.INPUT_SHAPE, maille.InputError),
        (OutcomeStatus.REJECTED, ErrorCode.QUEUE_FULL, maille.MeshBusy),
        (OutcomeStatus.REJECTED, ErrorCode.NO_SUCH_NODE, maille.UnknownNode),
        (OutcomeStatus.UNKNOWN, ErrorCode.NONE, maille.UnknownTask),
    ],
)
def test_status_and_code_give_the_error_named_by_what_one_can_do(
    status: OutcomeStatus, code: ErrorCode, kind: type[maille.MailleError]
) -> None:
    error = errors.error_of(outcome(status, code), "")
    assert type(error) is kind
    if isinstance(error, maille.TaskError):
        assert (error.task_id, error.code, error.node, error.attempts) == ("00" * 16, code, "pc", 2)
    if isinstance(error, maille.InputError):
        assert error.code == code


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    drawn: dict[str, str] = {}
    stack: list[str] = ["MailleError"]
    assert errors.__doc__ is not None
    for line in errors.__doc__.splitlines():
        match = re.match(r"^([│ ]*)[├└]── (\w+)", line)
        if match:
            depth = len(match[1]) // 4 + 1
            stack[depth:] = [match[2]]
            drawn[match[2]] = stack[depth - 1]
    real = {
        name: kind.__bases__[0].__name__
        for name, kind in vars(errors).items()
        if isinstance(kind, type)
        and issubclass(kind, maille.MailleError)
        and kind is not maille.MailleError
    }
    assert drawn == real


def test_public_names_are_sorted_and_there() -> None:
    assert sorted(maille.__all__) == maille.__all__
    for name in maille.__all__:
        assert getattr(maille, name).__doc__
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, maille.MailleError):
            assert name in maille.__all__
