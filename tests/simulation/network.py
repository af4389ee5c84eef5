"""A network that loses, repeats, delays and reorders messages, and whose links can be cut one way.

Nobody is told of a loss. A cut takes what is under way on the link, too.
"""


class FaultyNetwork:
    """The way of all messages of one simulated cluster.

    Args:
        events: the event heap.
        random: the run's one generator.
        loss, duplication, late: probabilities for each message; a late copy takes up to
            `late_max_ms`, any other up to `delay_max_ms`.
    """

    def __init__(self, events, random, *, loss, duplication, late, late_max_ms, delay_max_ms):
        self.blocked = set()  # directed (sender, receiver); asked for members only
        self.is_faulty = True
        self.sent_count = 0
        self._events = events
        self._random = random.random
        self._loss = loss
        self._duplication = duplication
        self._late = late
        self._late_max_ms = late_max_ms
        self._delay_max_ms = delay_max_ms

    def send(self, sender, receiver, deliver, *arguments, once=False):
        """Have `deliver(*arguments)` called when and if the message arrives.

        Args:
            once: a request or an answer of a connection, which is never repeated.
        """
        self.sent_count += 1
        copies = 1
        if self.is_faulty:
            draw = self._random()
            if draw < self._loss:
                return
            if draw > 1 - self._duplication and not once:
                copies = 2
        for _ in range(copies):
            delay_max_ms = self._delay_max_ms
            if self.is_faulty and self._random() < self._late:
                delay_max_ms = self._late_max_ms
            # Twice as fast as randint, and called for every message.
            delay_ms = int(self._random() * (delay_max_ms + 1))
            self._events.after(delay_ms, self._arrive, (sender, receiver), deliver, arguments)

    def _arrive(self, link, deliver, arguments):
        if link not in self.blocked:
            deliver(*arguments)

    def block(self, pairs, duration_ms):
        pairs = [pair for pair in pairs if pair not in self.blocked]
        self.blocked.update(pairs)
        self._events.after(duration_ms, self._unblock, pairs)

    def _unblock(self, pairs):
        self.blocked.difference_update(pairs)

    def heal(self):
        self.is_faulty = False
        self.blocked.clear()


def two_sides(nodes, random):
    """All links between two random sides."""
    side = {node for node in nodes if random.random() < 0.5}
    return [(a, b) for a in nodes for b in nodes if (a in side) != (b in side)]


def around(node, nodes, random):
    """The links of one node: what it sends, what it is sent, or both."""
    others = [other for other in nodes if other != node]
    outward = [(node, other) for other in others]
    inward = [(other, node) for other in others]
    return random.choice((outward, inward, outward + inward))


def some_links(nodes, random):
    """Links picked one by one, each in one direction."""
    pairs = [(a, b) for a in nodes for b in nodes if a != b]
    return [pair for pair in pairs if random.random() < 0.3]
