"""Whatever is done to an engine in whatever order: its books agree, every request ends once, no answer changes."""

from collections import Counter

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from soak.load import Alone
from soak.traffic import CONTEXT_LEN, draft_model, questions
from tiny_text import byte_tokenizer

from hyla.engine import Administration, Engine, Request
from hyla.engine.clock import ManualClock
from hyla.engine.requests.collect import Collector

ALONE = Alone(questions(6, seed=2))
"""Few questions, so that prompts meet in the prefix cache and each is computed alone only once."""


class AnyUse(RuleBasedStateMachine):
    """An engine with room for few of its requests."""

    @initialize(speculation=st.sampled_from(["off", "lookup", "mtp", "draft"]), prefix_cache=st.booleans())
    def start(self, speculation, prefix_cache):
        self.clock = ManualClock(0.0)
        self.engine = Engine(
            ALONE.model,
            tokenizer=byte_tokenizer(),
            memory=600_000,
            max_num_sequences=4,
            context_len=CONTEXT_LEN,
            prefill_chunk=70,
            speculation=speculation,
            draft_model=draft_model() if speculation == "draft" else None,
            fixed_drafts=True,
            prefix_cache=prefix_cache,
            clock=self.clock,
        )
        self.administration = Administration(self.engine)
        self.asked, self.finished = {}, {}

    # What is done to it

    @rule(
        number=st.integers(0, 5),
        priority=st.sampled_from([-1, 0, 0, 1]),
        deadline=st.sampled_from([None, None, 20]),
        salt=st.sampled_from(["", "", "other"]),
    )
    def add(self, number, priority, deadline, salt):
        question = ALONE.pool[number]
        request = Request(
            f"r{len(self.asked)}",
            question.prompt,
            question.params,
            priority=priority,
            deadline_seconds=deadline,
            cache_salt=salt,
        )
        self.asked[request.request_id] = (question, Collector(self.engine.add(request)))

    @rule(count=st.integers(1, 9))
    def step(self, count):
        for _ in range(count):
            if self.administration.may_step:
                self.take(self.engine.step())
                self.clock.advance(1.0)
            self.administration.settle()

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def cancel(self, data):
        self.engine.cancel(data.draw(st.sampled_from(sorted(self.asked))))
        self.take(self.engine.take_events())

    @rule(seconds=st.integers(1, 15))
    def wait(self, seconds):
        self.clock.advance(seconds)
        self.engine.expire()
        self.take(self.engine.take_events())

    @precondition(lambda self: self.administration.state != "asleep")
    @rule(mode=st.sampled_from(["finish", "keep", "keep", "abort"]))
    def pause(self, mode):
        self.administration.pause(mode)
        self.take(self.engine.take_events())

    @precondition(lambda self: self.administration.state != "asleep")
    @rule()
    def resume(self):
        self.administration.resume()

    @precondition(lambda self: self.administration.state == "paused")
    @rule()
    def sleep(self):
        self.administration.sleep()

    @precondition(lambda self: self.administration.state == "asleep")
    @rule()
    def wake(self):
        self.administration.wake()

    @rule()
    def forget_cached(self):
        self.engine.forget_cached()

    @rule()
    def preempt_all(self):
        self.engine.scheduler.preempt_all()

    def take(self, events):
        for event in events:
            key = (event.request_id, event.choice)
            assert key not in self.finished, "news after the end"
            self.asked[event.request_id][1].add(event)
            if event.finish_reason:
                self.finished[key] = event.finish_reason

    # What holds at any time

    @invariant()
    def the_ledger_agrees_with_who_holds_what(self):
        cache, scheduler = self.engine.cache, self.engine.scheduler
        cache.ledger.check()
        running = [generation.sequence for generation in scheduler.running]
        assert all(sequence.is_valid and not sequence.pending and sequence.backup is None for sequence in running)
        for window in (None, *cache.ledger.windows):
            held = Counter(page for sequence in running for page in sequence.tables[window] if page)
            assert held == +cache.units_of(window)._holders
        assert Counter(sequence.slot for sequence in running) == +cache.ledger.slots._holders
        assert cache.ledger.snapshots.used == 0

    @invariant()
    def the_tree_keeps_what_it_says(self):
        prefix = self.engine.prefix
        if prefix is None:
            return
        nodes = list(prefix.tree.nodes())
        kept = [node.checkpoint for node in nodes if node.checkpoint is not None]
        assert (len(nodes), len(kept)) == (prefix.tree.num_nodes, prefix.num_checkpoints)
        ledger = self.engine.cache.ledger
        assert Counter(node.page for node in nodes) == +ledger.pages._keepers
        assert Counter(checkpoint.unit for checkpoint in kept) == +ledger.snapshots._keepers
        for node in nodes:
            assert node.parent.children[node.key] is node and node.depth == node.parent.depth + 1

    @invariant()
    def everyone_waits_or_runs_or_has_ended(self):
        scheduler, waiting = self.engine.scheduler, list(self.engine.scheduler.waiting)
        assert len(scheduler.running) <= scheduler.max_num_sequences
        assert all(generation.sequence is None and generation.branch is None for generation in waiting)
        places = Counter((one.request.request_id, one.choice) for one in (*waiting, *scheduler.running))
        wanted = {(name, n) for name, (question, _) in self.asked.items() for n in range(question.params.n)}
        assert places == Counter(wanted - set(self.finished))

    @invariant()
    def a_drafter_remembers_only_who_runs(self):
        drafter = self.engine.speculation.drafter
        running = set(self.engine.scheduler.running)
        for name in ("_states", "_indexes", "_sequences"):
            assert set(vars(drafter or object).get(name, ())) <= running

    def teardown(self):
        if not hasattr(self, "engine"):
            return
        if self.administration.state == "asleep":
            self.administration.wake()
        self.administration.resume()
        while self.engine.has_work:
            self.take(self.engine.step())
        self.everyone_waits_or_runs_or_has_ended()
        for question, collector in self.asked.values():
            for mine, plain in zip(collector.completions(), ALONE.answers(question)):
                is_cut = mine.finish_reason in ("cancelled", "deadline")
                assert mine.token_ids == plain.token_ids[: len(mine.token_ids) if is_cut else None]
                assert is_cut or (mine.text, mine.logprobs, mine.finish_reason) == (
                    plain.text,
                    plain.logprobs,
                    plain.finish_reason,
                )
        self.engine.forget_cached()
        assert all(units.free == units.total for units in self.engine.cache.ledger.units)


TestAnyUse = AnyUse.TestCase
TestAnyUse.settings = settings(max_examples=12, stateful_step_count=20, suppress_health_check=[HealthCheck.too_slow])
