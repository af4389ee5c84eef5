"""Who may go, and when, of the batches that wait until the coordinator has their partition."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from ottla_cluster.transactions.records import ProducerIdentity, TransactionPartition
from ottla_cluster.transactions.verification_order import (
    Claim,
    Line,
    VerificationOrder,
    WaitingBatch,
)

ORDERS = Line(TransactionPartition("orders", "id", 0), 7)
PAYMENTS = Line(TransactionPartition("payments", "id", 3), 7)
NOW = Claim("transfers", ProducerIdentity(7, 4))
NEXT = Claim("transfers", ProducerIdentity(7, 5))


def batch(line=ORDERS, claim=NOW, *, is_sequenced=True):
    return WaitingBatch(line, claim, is_sequenced)


def order_of(*batches):
    order = VerificationOrder()
    for each in batches:
        order.enter(each)
    return order


def test_an_answer_lets_the_whole_line_go_in_its_order():
    first, second, other = batch(), batch(), batch(PAYMENTS)
    order = order_of(first, second, other)
    assert order.answered(ORDERS, NOW) == (first, second)
    assert (order.waiting, order.head_of(ORDERS), order.head_of(PAYMENTS)) == (1, None, other)


def test_an_answer_says_nothing_of_another_claim():
    old, new, late = batch(), batch(claim=NEXT), batch()
    order = order_of(old, new, late)
    assert order.answered(ORDERS, NEXT) == ()
    assert order.answered(ORDERS, NOW) == (old,)
    assert order.head_of(ORDERS) is new
    assert order.answered(ORDERS, NEXT) == (new,)
    assert order.head_of(ORDERS) is late


def test_what_is_numbered_does_not_go_where_one_before_it_has_left():
    first, left, behind = batch(), batch(), batch()
    other_epoch, not_numbered = batch(claim=NEXT), batch(is_sequenced=False)
    order = order_of(first, left, behind, other_epoch, not_numbered)
    assert order.leave([left]) == (behind,)
    assert order.leave([left, behind]) == ()
    assert order.answered(ORDERS, NOW) == (first,)
    assert order.answered(ORDERS, NEXT) == (other_epoch,)
    assert order.answered(ORDERS, NOW) == (not_numbered,)
    assert order.waiting == 0


def test_what_has_no_number_leaves_alone():
    left, behind = batch(is_sequenced=False), batch()
    order = order_of(left, behind)
    assert order.leave([left]) == ()
    assert order.answered(ORDERS, NOW) == (behind,)


LINES = st.sampled_from([ORDERS, PAYMENTS])
CLAIMS = st.sampled_from([NOW, NEXT])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), LINES, CLAIMS, st.booleans()),
        st.tuples(st.just("answer"), LINES, CLAIMS),
        st.tuples(st.just("leave"), st.lists(st.integers(0, 30), min_size=1, max_size=3)),
    ),
    max_size=40,
)


@given(STEPS)
def test_any_interleaving_keeps_each_producers_order(steps):
    order = VerificationOrder()
    entered = []
    # What became of each: the step in which it went, or None where it failed or left.
    fate = {}
    for number, step in enumerate(steps):
        if step[0] == "enter":
            entered.append(batch(step[1], step[2], is_sequenced=step[3]))
            order.enter(entered[-1])
        elif step[0] == "answer":
            for each in order.answered(step[1], step[2]):
                assert (each.line, each.claim) == step[1:]
                assert each not in fate
                fate[each] = number
        else:
            leaving = [entered[index] for index in step[1] if index < len(entered)]
            present = [each for each in leaving if each not in fate]
            for each in (*leaving, *order.leave(leaving)):
                fate.setdefault(each, None)
            for each in present:
                behind = entered[entered.index(each) + 1 :] if each.is_sequenced else []
                assert all(
                    later in fate
                    for later in behind
                    if later.is_sequenced and (later.line, later.claim) == (each.line, each.claim)
                ), "one stays that is out of order"

    waiting = [each for each in entered if each not in fate]
    assert order.waiting == len(waiting)
    for line in (ORDERS, PAYMENTS):
        standing = [each for each in waiting if each.line == line]
        assert order.head_of(line) is (standing[0] if standing else None)
    by_line = defaultdict(list)
    for each in entered:
        by_line[each.line].append(each)
    for batches in by_line.values():
        went = [fate[each] for each in batches if fate.get(each) is not None]
        assert went == sorted(went), "one overtook another"
        for position, each in enumerate(batches):
            if fate.get(each) is None:
                continue
            assert all(earlier in fate for earlier in batches[:position]), "it went before its turn"


@given(STEPS)
def test_whoever_waits_is_let_go_at_last(steps):
    order = VerificationOrder()
    for step in steps:
        if step[0] == "enter":
            order.enter(batch(step[1], step[2], is_sequenced=step[3]))
    for line in (ORDERS, PAYMENTS):
        while (head := order.head_of(line)) is not None:
            assert order.answered(line, head.claim)
    assert order.waiting == 0
