"""Commands: the order that batching keeps, one list for several holders of tensors, and what a fault leaves."""

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_mixer import SPEC, expected, read, write

from hyla.caches import Cache
from hyla.caches.commands import Command, batched
from hyla.caches.ledger import Ledger
from hyla.caches.plan import Plan
from hyla.caches.tensors import PoolTensors

UNITS = st.integers(1, 3)
COMMANDS = st.one_of(
    st.builds(lambda a: Command("zero_pages", ((a,),)), UNITS),
    st.builds(lambda a: Command("zero_slots", ((a,),)), UNITS),
    st.builds(lambda a, b: Command("copy_pages", ((a, b % 3 + 1 if a == b else b),)), UNITS, UNITS),
    st.builds(lambda a, b: Command("copy_slots", ((a, b % 3 + 1 if a == b else b),)), UNITS, UNITS),
    st.builds(lambda a, b: Command("save", ((a, b),)), UNITS, UNITS),
    st.builds(lambda a, b, n: Command("load", ((a, b, 64 * n),)), UNITS, UNITS, st.integers(1, 2)),
)


def tensors():
    """Three of each kind, every number another one."""
    made = PoolTensors([SPEC], Ledger(3, 3, 3), "float32", torch.device("cpu"))
    for start, tensor in enumerate(contents(made)):
        tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape) + 1000 * start)
    return made


def contents(made):
    kept = [tensor for layer in made.snapshots.layers for parts in layer.values() for tensor in parts.values()]
    return [*(tensor for layer in made.layers for tensor in layer.values()), *kept]


def same(one, other):
    return all(map(torch.equal, contents(one), contents(other)))


@settings(max_examples=300)
@given(st.lists(COMMANDS, max_size=14))
def test_batched_commands_leave_what_the_single_ones_leave(commands):
    one_by_one, together = tensors(), tensors()
    for command in commands:
        one_by_one.apply(command)
    groups = batched(commands)
    for command in groups:
        together.apply(command)
    assert same(one_by_one, together)
    assert sorted(str(one) for group in groups for one in group.single()) == sorted(map(str, commands))


def test_what_a_step_needs_is_a_few_commands(monkeypatch):
    cache = Cache([SPEC], num_pages=9, num_slots=4, num_snapshots=1)
    done = []
    apply = PoolTensors.apply
    monkeypatch.setattr(PoolTensors, "apply", lambda own, command: done.append(command) or apply(own, command))
    sequences = [cache.open() for _ in range(4)]
    cache.batch([(sequence, 70) for sequence in sequences])
    assert [(command.verb, len(command.items)) for command in done] == [("zero_slots", 4), ("zero_pages", 8)]


def test_another_holder_of_tensors_follows_the_same_list(monkeypatch):
    """As a rank does that has its own part of every tensor: the list goes over a pipe as it is."""
    cache = Cache([SPEC], num_pages=9, num_slots=4, num_snapshots=2)
    other = PoolTensors([SPEC], Ledger(9, 4, 2), "float32", torch.device("cpu"))
    apply = PoolTensors.apply

    def follow(own, command):
        apply(own, command)
        apply(other, pickle.loads(pickle.dumps(command)))

    monkeypatch.setattr(PoolTensors, "apply", follow)
    first, tokens = cache.open(), list(range(5, 135))
    batch = cache.batch([(first, 130)])
    for layer in (cache.layers[0], other.layers[0]):
        write(layer, batch, tokens)
    cache.commit(first, 130)
    (unit,) = cache.ledger.snapshots.take(1)
    checkpoint = cache.checkpoint(first, unit)
    cache.fork(first)
    cache.ledger.pages.keep(first.pages[:2])
    again = cache.resume(first.pages[:2], checkpoint)
    assert read(cache.layers[0], again) == expected(tokens[:128]) == read(other.layers[0], again)
    assert same(cache.tensors, other)


class Interrupted(BaseException):
    """Not an Exception, as KeyboardInterrupt is none."""


def test_an_interrupted_command_is_repeated_and_none_is_lost_or_done_twice(monkeypatch):
    made, right = tensors(), tensors()
    plan = Plan(made)
    commands = [
        Command("copy_slots", ((1, 2),)), Command("zero_slots", ((1,),)), Command("copy_slots", ((3, 1),)),
    ]  # fmt: skip
    for command in commands:
        plan.add(command)
        right.apply(command)
    apply, calls = PoolTensors.apply, []

    def failing(own, command):
        calls.append(command)
        apply(own, command)
        if len(calls) == 2:
            raise Interrupted

    monkeypatch.setattr(PoolTensors, "apply", failing)
    with pytest.raises(Interrupted):
        plan.carry_out()
    plan.carry_out()
    assert calls == [commands[0], commands[1], *commands[1:]] and same(made, right)
    plan.carry_out()
    assert len(calls) == 4


def test_what_cannot_be_done_concerns_only_who_needed_it(monkeypatch):
    cache = Cache([SPEC], num_pages=9, num_slots=4)
    apply = PoolTensors.apply

    def failing(own, command):
        if (2,) in command.items and command.verb == "zero_slots":
            raise MemoryError("no room")
        apply(own, command)

    sequences = [cache.open() for _ in range(3)]
    with monkeypatch.context() as patch:
        patch.setattr(PoolTensors, "apply", failing)
        cache.apply()
    assert [str(cache.failure_of(one)) for one in sequences] == ["None", "no room", "None"]
    copy = cache.fork(sequences[1])
    cache.apply()
    assert str(cache.failure_of(copy)) == "no room"  # a copy of what is wrong is wrong
    for broken in (sequences[1], copy):
        with pytest.raises(MemoryError, match="no room"):
            cache.batch([(broken, 3)])
        cache.close(broken)
    cache.batch([(sequences[0], 5), (sequences[2], 70)])
    again = cache.open()
    assert again.slot == 2
    cache.batch([(again, 5)])
    assert cache.failure_of(again) is None
    cache.ledger.check()


def test_a_batch_that_could_not_be_prepared_can_be_repeated(monkeypatch):
    cache = Cache([SPEC], num_pages=9, num_slots=3)
    sequence = cache.open()
    write(cache.layers[0], cache.batch([(sequence, 60)]), range(60))
    cache.commit(sequence, 60)
    with monkeypatch.context() as patch:
        patch.setattr(PoolTensors, "apply", lambda own, command: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cache.batch([(sequence, 9)], certain=[1])
    assert (sequence.length, sequence.written, sequence.pending) == (60, 60, 0)
    cache.close(sequence)
    cache.ledger.check()
    assert [units.free for units in cache.ledger.units] == [9, 3, 0]


def test_a_state_that_cannot_be_saved_is_not_kept(monkeypatch):
    cache = Cache([SPEC], num_pages=9, num_slots=3, num_snapshots=1)
    sequence = cache.open()
    write(cache.layers[0], cache.batch([(sequence, 64)]), range(64))
    cache.commit(sequence, 64)
    (unit,) = cache.ledger.snapshots.take(1)
    with monkeypatch.context() as patch:
        patch.setattr(PoolTensors, "apply", lambda own, command: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cache.checkpoint(sequence, unit)
    checkpoint = cache.checkpoint(sequence, unit)
    cache.ledger.pages.keep(sequence.pages)
    again = cache.resume(sequence.pages, checkpoint)
    assert read(cache.layers[0], again) == expected(list(range(64)))
