"""Each answer of a machine goes to whoever waits for it, and to nobody else."""

import pytest

from ottla_broker.drivers.pending_answers import PendingAnswers
from ottla_cluster.state_machine.runtime import Completed
from ottla_protocol.errors import NotCoordinatorError


async def test_an_answer_reaches_who_waits_for_it():
    answers = PendingAnswers()
    first, second = answers.expect(1), answers.expect(2)
    answers.give((Completed(2, "yes"),))
    assert await second == "yes"
    assert not first.done()


async def test_a_refusal_is_raised():
    answers = PendingAnswers()
    waiting = answers.expect(1)
    answers.give((Completed(1, NotCoordinatorError("moved")),))
    with pytest.raises(NotCoordinatorError, match="moved"):
        await waiting


async def test_an_answer_for_which_nobody_waits_is_dropped():
    answers = PendingAnswers()
    gone, forgotten = answers.expect(1), answers.expect(2)
    gone.cancel()
    answers.forget(2)
    answers.forget(2)
    answers.give((Completed(1, "a"), Completed(2, "b"), Completed(3, "c")))
    assert gone.cancelled()
    assert not forgotten.done()
