"""A virtual mesh from its first moment to the last check."""

import copy
from collections.abc import Callable
from random import Random

from maille_coordinator.core import CoreLimits
from maille_coordinator.core.events import DrainAsked, Event, ResumeAsked
from maille_protocol import NodeState, Outcome, Submission
from maille_protocol.topics import Party
from maille_simulator.virtual.broker import VirtualBroker
from maille_simulator.virtual.client import VirtualClient
from maille_simulator.virtual.coordinator import VirtualCoordinator
from maille_simulator.virtual.faults import Fault
from maille_simulator.virtual.journal import VirtualJournal
from maille_simulator.virtual.language.checks import check_memory, check_rest
from maille_simulator.virtual.language.run import LanguageRun
from maille_simulator.virtual.language.service import VirtualLanguage
from maille_simulator.virtual.ledger import Ledger
from maille_simulator.virtual.node import VirtualNode
from maille_simulator.virtual.plan import Burst, RunPlan, Withdrawal
from maille_simulator.virtual.profile import NodeProfile
from maille_simulator.virtual.recorder import Recorder
from maille_simulator.virtual.schedule import Schedule
from maille_simulator.virtual.violation import Violation

WATCHDOG_MS = 100.0
"""How often a supervisor looks whether the coordinator still runs."""

FOR_GOOD_MS = 1e11
CALM_AFTER_MS = 5000.0
"""After the last trouble: until then whoever was ended is back, and generations may be refused."""

SETTLE_MS = 1500.0
"""After the last outcome: what nodes still hold by mistake is found within this time."""

RESUME_AGAIN_MS = 500.0
LASTING_DRAIN = 0.6
"""A drain of this amount lasts until `DRAINED_MS` after the last trouble."""

DRAINED_MS = 7000.0
"""Orders are repeated every 5 s, upon a heartbeat."""
LEAVE_TIMEOUT_MS = 3000.0
CLOCK_JUMP_MS = 600_000.0


class World:
    """Carries one plan out.

    Args:
        plan: what happens.
        recorder: takes what a report shows, or None.
    """

    def __init__(self, plan: RunPlan, recorder: Recorder | None = None) -> None:
        self.plan = plan
        self.schedule = Schedule(plan.most_calls)
        self.ledger = Ledger()
        self.journal = VirtualJournal()
        self.broker = VirtualBroker(
            self.schedule, self._random("broker"), copy.copy(plan.weather), plan.keepalive_ms
        )
        self.nodes: dict[str, VirtualNode] = {}
        self.rounds = 0
        self.coordinators = 0
        self._recorder = recorder
        self._models = {model.sha256: model for model in plan.models}
        self._profiles = {node: profile for node, profile, _ in plan.nodes}
        self._starts = 0
        self._twins: list[VirtualNode] = []
        self._clock_offset_ms = 0.0
        self._restart_after_ms = 0.0
        self._broken = {model.name for model in plan.models if model.broken}
        self._limits = CoreLimits(max_open_tasks=max(plan.max_open_tasks, len(self._all_tasks())))
        self.language = (
            None
            if plan.language is None
            else LanguageRun(
                self.schedule,
                plan.language,
                self._desk,
                calm_ms=plan.healed_ms + CALM_AFTER_MS,
            )
        )
        self.coordinator = self._new_coordinator()
        self.clients = {
            name: VirtualClient(self.schedule, self.broker, name, self._random(name), self._deliver)
            for name in plan.clients
        }

    def run(self) -> None:
        """Violation if a promise breaks."""
        self.play()
        plan, schedule = self.plan, self.schedule
        if not self._finished():
            self._report_lost()
        schedule.run(max(schedule.now_ms + SETTLE_MS, plan.healed_ms + plan.calm_ms))
        self.coordinator.validate()
        self.coordinator.watch.check_memory()
        self.coordinator.watch.check_answering(
            {name: node.boot for name, node in self.nodes.items() if node.answers}
        )
        self._check_wishes()
        if self.language is not None:
            nodes = self.nodes.values()
            check_rest(self.language, self.coordinator, nodes, self.ledger.twinned)

    def play(self) -> None:
        """Let everything happen, until all has ended or patience has; Violation as `run`."""
        plan, schedule = self.plan, self.schedule
        for node, _, start_ms in plan.nodes:
            schedule.at(start_ms, self._start_node, node)
        for burst in plan.bursts:
            schedule.at(burst.at_ms, self._submit, burst)
        for withdrawal in plan.withdrawals:
            schedule.at(withdrawal.at_ms, self._withdraw, withdrawal)
        for fault in plan.faults:
            schedule.at(fault.at_ms, self._begin, fault)
        schedule.at(plan.healed_ms, self._heal)
        schedule.after(plan.validate_every_ms, self._validate)
        schedule.after(WATCHDOG_MS, self._supervise)
        schedule.run(plan.healed_ms)
        schedule.run(plan.healed_ms + plan.patience_ms, self._finished)

    # --- parts -----------------------------------------------------------------------------

    def _random(self, what: str) -> Random:
        plan = self.plan
        draws = f"{plan.seed}/{plan.luck}" if plan.luck else f"{plan.seed}"
        return Random(f"{draws}/{what}")

    def _all_tasks(self) -> list[bytes]:
        return [task_id for burst in self.plan.bursts for task_id, _ in burst.tasks]

    def _new_coordinator(self) -> VirtualCoordinator:
        self.coordinators += 1
        return VirtualCoordinator(
            self.schedule,
            self.broker,
            self._random(f"coordinator {self.coordinators}"),
            self.journal,
            [model.record for model in self.plan.models],
            clock_offset_ms=self._clock_offset_ms,
            limits=self._limits,
            round_ms=self.plan.coordinator_round_ms,
            language=self.language,
        )

    def _new_node(self, node: str) -> VirtualNode:
        self._starts += 1
        profile = self._profiles.get(node, NodeProfile())
        return VirtualNode(
            self.schedule,
            self.broker,
            node,
            self._random(f"{node} {self._starts}"),
            profile=profile,
            models=self._models,
            ledger=self.ledger,
            recorder=self._recorder,
            language=self.language if profile.holds_slices else None,
        )

    def _desk(self) -> VirtualLanguage | None:
        """Where generations are asked for, if anybody answers there."""
        coordinator = self.coordinator
        language = coordinator.language
        answers = coordinator.alive and not coordinator.stopped
        return language if answers and language is not None and language.was_read else None

    def _start_node(self, node: str) -> None:
        known = self.nodes.get(node)
        if known is None or not known.alive:
            self.nodes[node] = self._new_node(node)

    # --- load ------------------------------------------------------------------------------

    def _submit(self, burst: Burst) -> None:
        broken = burst.settings.model in self._broken
        now_ms = self.schedule.now_ms
        for task_id, content in burst.tasks:
            self.ledger.submit(
                burst.client, task_id, burst.settings, content, now_ms, broken=broken
            )
        self.clients[burst.client].submit(
            burst.settings, [Submission(task_id, content) for task_id, content in burst.tasks]
        )

    def _withdraw(self, withdrawal: Withdrawal) -> None:
        for task_id in withdrawal.task_ids:
            self.ledger.tasks[task_id].withdrawn = True
        self.clients[withdrawal.client].withdraw(withdrawal.task_ids)

    def _deliver(self, client: str, outcome: Outcome) -> None:
        self.ledger.deliver(client, outcome, self.journal.ends, self.schedule.now_ms)

    # --- checks ----------------------------------------------------------------------------

    def _finished(self) -> bool:
        language = self.language
        return self.ledger.all_delivered and (language is None or language.readers.all_ended)

    def _validate(self) -> None:
        if self.coordinator.alive:
            self.coordinator.validate()
            self.coordinator.watch.check_memory()
        if self.language is not None:
            check_memory(self.language, self.coordinator, self.nodes.values())
        self.schedule.after(self.plan.validate_every_ms, self._validate)

    def _check_wishes(self) -> None:
        """Violation if a node stayed drained that nobody wants drained, or the other way round."""
        for name, node in self.nodes.items():
            drained = node.core.state is NodeState.DRAINING
            if node.is_up and not node.stopped and drained != bool(self.journal.wishes.get(name)):
                text = f"{name} is {node.core.state.name} in calm weather"
                raise Violation("what people want holds", text)

    def _report_lost(self) -> None:
        if self.language is not None:
            self.language.check_ends()
        missing = [
            task_id for task_id, promise in self.ledger.tasks.items() if promise.outcome is None
        ]
        task = self.coordinator.core.tasks.get(missing[0])
        where = "unknown to the coordinator"
        if missing[0] in self.journal.ends:
            where = "ended in the journal"
        elif task is not None:
            where = f"{task.state.value}, attempt {task.attempt} on {task.node or 'no node'}"
        text = f"{len(missing)} tasks never came back; {missing[0].hex()} is {where}"
        raise Violation("nothing is lost", text)

    # --- faults ----------------------------------------------------------------------------

    def _begin(self, fault: Fault) -> None:
        if self._recorder is not None:
            self._recorder.mark(fault.at_ms, f"{fault.kind.value} {fault.target}".strip())
        call = getattr(self, f"_begin_{fault.kind.value}")
        call(fault)

    def _ends(self, fault: Fault, call: Callable[..., None], *arguments: object) -> None:
        at_ms = self.schedule.now_ms + fault.lasts_ms
        if self.plan.heals:
            at_ms = min(at_ms, self.plan.healed_ms)
        if at_ms < FOR_GOOD_MS:
            self.schedule.at(at_ms, call, *arguments)

    def _begin_kill(self, fault: Fault) -> None:
        node = self.nodes.get(fault.target)
        if node is not None:
            node.end(gracefully=False)
            self._ends(fault, self._start_node, fault.target)

    def _begin_stop(self, fault: Fault) -> None:
        node = self.nodes.get(fault.target)
        if node is not None:
            node.stop()
            self._ends(fault, node.resume)

    def _begin_resume(self, fault: Fault) -> None:
        node = self.nodes.get(fault.target)
        if node is not None and node.stopped:
            node.resume()
        else:
            self._resume(fault.target)

    def _begin_drain(self, fault: Fault) -> None:
        self._ask(DrainAsked(fault.target))
        if self.plan.heals and fault.amount >= LASTING_DRAIN:
            self.schedule.at(self.plan.healed_ms + DRAINED_MS, self._look_and_resume, fault.target)
        else:
            self._ends(fault, self._resume, fault.target)

    def _look_and_resume(self, target: str) -> None:
        """Long after the last trouble a node is as people want it, whoever has died meanwhile."""
        node = self.nodes.get(target)
        if node is not None and node.is_up and self.journal.wishes.get(target):
            state = node.core.state
            if state is not NodeState.DRAINING:
                text = f"{target} is {state.name}, a person wants it drained"
                raise Violation("what people want holds", text)
        self._resume(target)

    def _resume(self, node: str) -> None:
        coordinator = self.coordinator
        if not coordinator.alive or coordinator.core.registry.get(node) is None:
            # A person is told that the node is unknown, and tries again.
            self.schedule.after(RESUME_AGAIN_MS, self._resume, node)
            return
        self._ask(ResumeAsked(node))
        self.schedule.after(RESUME_AGAIN_MS, self._resume_again, node)

    def _resume_again(self, node: str) -> None:
        """A person whose call was cut off by a coordinator's death calls again."""
        if self.journal.wishes.get(node):
            self._resume(node)

    def _ask(self, event: Event) -> None:
        coordinator = self.coordinator
        coordinator.later(0.0, coordinator.round, event)

    def _begin_leave(self, fault: Fault) -> None:
        node = self.nodes.get(fault.target)
        if node is not None:
            node.leave(LEAVE_TIMEOUT_MS)
            self._ends(fault, self._start_node, fault.target)

    def party(self, target: str) -> Party:
        """What kind of party has this id."""
        if target == "coordinator":
            return Party.COORDINATOR
        return Party.CLIENT if target in self.clients else Party.NODE

    def _begin_partition(self, fault: Fault) -> None:
        party = self.party(fault.target)
        self.broker.cut(party, fault.target, stalls=fault.amount >= 0.5)
        self._ends(fault, self.broker.heal, party, fault.target)

    def _begin_flap(self, fault: Fault) -> None:
        self.broker.drop(self.party(fault.target), fault.target)

    def _begin_sick(self, fault: Fault) -> None:
        node = self.nodes.get(fault.target)
        if node is not None:
            node.sick = True
            self._ends(fault, self._recover, node)

    def _recover(self, node: VirtualNode) -> None:
        node.sick = False

    def _begin_twin(self, fault: Fault) -> None:
        twin = self._new_node(fault.target)
        self.ledger.twinned.add(fault.target)
        self._twins.append(twin)
        self._ends(fault, self._end_twin, twin)

    def _end_twin(self, twin: VirtualNode) -> None:
        twin.end(gracefully=False)

    def _begin_battery(self, fault: Fault) -> None:
        node = self.nodes.get(fault.target)
        if node is not None:
            node.read_battery(int(fault.amount * 100))

    def _begin_broker_restart(self, fault: Fault) -> None:
        down_ms = fault.lasts_ms
        if self.plan.heals:
            down_ms = min(down_ms, max(0.0, self.plan.healed_ms - self.schedule.now_ms))
        self.broker.restart(down_ms, forgetful=fault.amount < 0.5)

    def _begin_coordinator_kill(self, fault: Fault) -> None:
        self._restart_after_ms = fault.lasts_ms
        if fault.amount < 0.3:
            self.coordinator.crash_at = "before commit"
        elif fault.amount < 0.6:
            self.coordinator.crash_at = "after commit"
        else:
            self.coordinator.end(gracefully=False)

    def _supervise(self) -> None:
        if not self.coordinator.alive:
            self._restart_after_ms -= WATCHDOG_MS
            if self._restart_after_ms <= 0 or self.schedule.now_ms >= self.plan.healed_ms:
                self.rounds += self.coordinator.rounds
                self.coordinator = self._new_coordinator()
        self.schedule.after(WATCHDOG_MS, self._supervise)

    def _begin_coordinator_stop(self, fault: Fault) -> None:
        self.coordinator.stop()
        self._ends(fault, self.coordinator.resume)

    def _begin_clock_jump(self, fault: Fault) -> None:
        if not 0 <= fault.amount <= 1:
            self._clock_offset_ms += fault.amount
        else:
            self._clock_offset_ms += (2 * fault.amount - 1) * CLOCK_JUMP_MS
        self.ledger.clock_jumped = True

    def _begin_link(self, fault: Fault) -> None:
        key = self.party(fault.target), fault.target
        if fault.link is not None:
            self.broker.links[key] = fault.link
            self._ends(fault, self._end_link, key)

    def _end_link(self, key: tuple[Party, str]) -> None:
        own = self.broker.own_links.get(key)
        if own is None:
            self.broker.links.pop(key, None)
        else:
            self.broker.links[key] = own

    def _begin_storm(self, fault: Fault) -> None:
        self.broker.weather = copy.copy(self.plan.storm)
        self._ends(fault, self._end_storm)

    def _end_storm(self) -> None:
        if self.schedule.now_ms < self.plan.healed_ms:
            self.broker.weather = copy.copy(self.plan.weather)

    def _heal(self) -> None:
        """Nothing goes wrong from here on; whoever was ended comes back."""
        if not self.plan.heals:
            return
        calm = copy.copy(self.plan.weather)
        calm.loss = calm.duplicate = calm.late = calm.lost_will = 0.0
        self.broker.weather = calm
        self.coordinator.crash_at = ""
        for twin in self._twins:
            twin.end(gracefully=False)
        for node in list(self.nodes):
            self.nodes[node].resume()
            self._start_node(node)
        for party, target in [
            *((Party.NODE, node) for node in self.nodes),
            *((Party.CLIENT, client) for client in self.clients),
            (Party.COORDINATOR, "coordinator"),
        ]:
            self.broker.heal(party, target)
        self.schedule.after(LEAVE_TIMEOUT_MS + 500.0, self._start_missing)

    def _start_missing(self) -> None:
        for node in list(self.nodes):
            self._start_node(node)
