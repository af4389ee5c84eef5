"""What is done to the cluster at random: each method one fault, which ends by itself or at the end.

A fault that did something counts in `world.events`; a test over many seeds asks that each did.
"""

from tests.simulation.network import around, some_links, two_sides
from tests.simulation.plane.timing import SESSION_TIMEOUT_MS


class Faults:
    def __init__(self, world):
        self.world = world
        self.random = world.random

    def begin(self):
        if self.world.options.faults:
            self.world.after(0, self._fault)

    def _fault(self):
        world = self.world
        if world.is_healed:
            return
        fault = self.random.choice(world.options.faults)
        world.note("fault", fault)
        getattr(self, fault)()
        world.after(self.random.randint(1, 2 * world.options.fault_interval_ms), self._fault)

    def end(self):
        for process in self.world.processes.values():
            process.is_full = False
            process.hung_until_ms = 0
            if process.misses_its_directory:
                if process.is_up:
                    process.crash()
                process.find_directory()
            if not process.is_up:
                process.start()
            elif process.is_paused:
                process.resume()

    def _any(self):
        return self.world.processes[self.world.any_node()]

    def _count(self, fault):
        self.world.events[fault] += 1

    # --- processes ------------------------------------------------------------------------------

    def _kill(self, process, down_max_ms, fault):
        if process.is_up:
            self._count(fault)
            self.world.note(process.node_id, "dies")
            process.crash(write_survives=self.random.random() < 0.3)
            self.world.after(self.random.randint(1, down_max_ms), self.world.restart, process)

    def kill(self):
        self._kill(self._any(), 500, "kill")

    def kill_controller(self):
        leading = [p for p in self.world.processes.values() if p.controller.active is not None]
        self._kill(self.random.choice(leading) if leading else self._any(), 500, "kill controller")

    def kill_leader(self):
        leading = [
            process
            for process in self.world.processes.values()
            if any(replica.leader is not None for replica in process.replicas.values())
        ]
        self._kill(self.random.choice(leading) if leading else self._any(), 500, "kill leader")

    def kill_writing(self):
        """Kill where it hurts: while something is not on disk."""
        writing = [
            process
            for process in self.world.processes.values()
            if process.voter.is_writing
            or any(not replica.log.is_settled for replica in process.replicas.values())
        ]
        self._kill(self.random.choice(writing) if writing else self._any(), 60, "kill writing")

    def strand(self):
        """Have a replica fall behind, and then kill all that are in sync, for long."""
        partitions = [state for _, state in self.world.invariants.image.all_partitions()]
        if partitions:
            state = self.random.choice(partitions)
            laggard = self.world.processes[self.random.choice(state.replicas)]
            if laggard.is_up and not laggard.is_paused:
                laggard.pause()
                behind_ms = self.random.randint(250, 500)
                self.world.after(behind_ms + 50, self._resume, laggard, laggard.incarnation)
                self.world.after(behind_ms, self._kill_in_sync, state)

    def _kill_in_sync(self, state):
        state = self.world.invariants.image.topics[state.topic_id].partitions[state.partition]
        if self.world.is_healed or len(state.isr) == len(state.replicas):
            return
        for process in map(self.world.processes.get, state.isr):
            if process.is_up:
                self._count("kill in sync")
                process.crash()
                self.world.after(self.random.randint(900, 1_500), self.world.restart, process)

    def power_loss(self):
        """All at once, or all but one."""
        spared = self.world.any_node() if self.random.random() < 0.5 else None
        for process in self.world.processes.values():
            if process.node_id != spared:
                self._kill(process, 150, "power loss")

    def restart_cleanly(self):
        process = self._any()
        if process.is_up and process.is_active:
            self._count("clean restart")
            process.stop()

    def replace_disk(self):
        process = self._any()
        if process.is_up:
            self._kill(process, 300, "kill")
            process.loses_disk = True

    def lose_directory(self):
        """The last member of an ISR starts with an empty directory; at the end it is found."""
        if self._lose_directory_of_the_last():
            return
        shared = [
            state
            for _, state in self.world.invariants.image.all_partitions()
            if 1 < len(state.isr) <= (len(self.world.processes) + 1) // 2
        ]
        if shared:
            state = self.random.choice(shared)
            spared = self.random.choice(state.isr)
            for node_id in state.isr:
                if node_id != spared:
                    self._kill(self.world.processes[node_id], 900, "kill")
            self.world.after(self.random.randint(50, 400), self._lose_directory_of_the_last)

    def _lose_directory_of_the_last(self):
        last = [
            self.world.processes[state.isr[0]]
            for _, state in self.world.invariants.image.all_partitions()
            if len(state.isr) == 1 and len(state.replicas) > 1
        ]
        if self.world.is_healed or not last or not self._is_all_known():
            return False
        victim = self.random.choice(last)
        if victim.is_up:
            victim.crash()
        self.world.has_lost_directories = True
        self._count("lost directory")
        victim.lose_directory()
        self.world.after(self.random.randint(1, 300), self.world.restart, victim)
        return True

    def _is_all_known(self):
        """Whether no disk lacks what it is taken to have."""
        image = self.world.invariants.image
        return all(
            process.has_told_its_directory(image) and not self._lacks_something(process)
            for process in self.world.processes.values()
        )

    def lose_tail(self):
        """A dead broker's disk forgets synced records, if all others are sound and some in sync."""
        down = [process for process in self.world.processes.values() if not process.is_up]
        if not down:
            self.kill()
            return
        victim = self.random.choice(down)
        if not self._is_all_known():
            return
        image = self.world.invariants.image
        for key, disk in victim.disks.items():
            state = image.topics[key[0]].partitions[key[1]]
            if state.isr != (victim.node_id,) and disk.lose_tail(self.random.randint(1, 4)):
                self.world.has_lost_tails = True
                self._count("lost tail")

    def _lacks_something(self, process):
        return any(disk.has_lost_tail for disk in process.disks.values()) or any(
            not replica.fitness.is_whole for replica in process.replicas.values()
        )

    def _pause(self, process, duration_max_ms):
        if process.is_up and not process.is_paused:
            self._count("pause")
            process.pause()
            duration_ms = self.random.randint(10, duration_max_ms)
            self.world.after(duration_ms, self._resume, process, process.incarnation)

    def _resume(self, process, incarnation):
        if process.is_paused and process.incarnation == incarnation:
            process.resume()

    def pause(self):
        self._pause(self._any(), 700)

    def pause_minority(self):
        """The NATS killer: pause a minority, kill one that is up to date, go on with the others."""
        count = len(self.world.processes)
        first = self.world.any_node()
        for step in range(count // 2):
            self._pause(self.world.processes[1 + (first + step) % count], 500)
        self._kill(self._any(), 400, "kill")

    def clock_step(self):
        """A clock jumps ahead, as after a suspension; one that steps back is standing still."""
        process = self._any()
        self._count("clock step")
        step_ms = self.random.choice((-100, 20, 200, 60_000))
        process.clock_offset_ms += step_ms
        process.clock_jumps_ms += max(0, step_ms)
        # A lease is too long by what the holder's clock misses, a session by what its judge's adds.
        self.world.leases_overlap(2 * SESSION_TIMEOUT_MS)
        if process.is_up:
            self.world.wake(process.voter)

    # --- network and disks ----------------------------------------------------------------------

    def _cut(self, pairs):
        self._count("cut")
        self.world.network.block(pairs, self.random.randint(30, 700))

    def partition(self):
        self._cut(two_sides(self.world.processes, self.random))

    def isolate(self):
        self._cut(around(self.world.any_node(), self.world.processes, self.random))

    def one_way(self):
        self._cut(some_links(self.world.processes, self.random))

    def hang_disk(self):
        process = self._any()
        self._count("hung disk")
        process.hung_until_ms = self.world.now_ms + self.random.randint(50, 600)

    def fill_disk(self):
        process = self._any()
        if not process.is_full:
            self._count("full disk")
            process.is_full = True
            self.world.after(self.random.randint(50, 500), self._empty_disk, process)

    def _empty_disk(self, process):
        process.is_full = False

    # --- the quorum ---------------------------------------------------------------------------

    def change_voters(self):
        """Add a voter, or remove one; a voter that is no more goes on as a broker."""
        for leader in self.world.leading_voters():
            voter_ids = leader.node.configuration.voter_ids
            node_id = self.world.any_node()
            if node_id not in voter_ids:
                url = f"http://{node_id}"
                leader.act(lambda node, now_ms, n=node_id, u=url: node.add_voter(n, u, now_ms))
            elif len(voter_ids) > 2:
                # Drawn from what is random already: whether the operator insists.
                force = self.world.now_ms % 2 == 0
                leader.act(
                    lambda node, now_ms, n=node_id, f=force: node.remove_voter(n, now_ms, force=f)
                )

    def transfer_leadership(self):
        node_id = self.world.any_node()
        for leader in self.world.leading_voters():
            if node_id in leader.node.configuration.voter_ids and node_id != leader.node_id:
                self._count("transfer")
                leader.act(lambda node, now_ms: node.transfer_leadership(node_id, now_ms))

    # --- administration -------------------------------------------------------------------------

    def reassign(self):
        self.world.administrator.reassign()

    def throttle(self):
        self.world.administrator.throttle()

    def create_topic(self):
        if len(self.world.invariants.image.topics) < 3:
            self._count("new topic")
            self.world.administrator.create(1, self.world.add_clients)
