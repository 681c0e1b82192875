"""Topic filters: what they match, and which stream a topic belongs to.

A topic is routed once and then found in a dict, whose keys also give every reading of a topic the same text object.
"""

from collections.abc import Iterable, Sequence

NOWHERE = ""  # the stream of topics that match no filter
MOST_CACHED = 4 << 20  # characters of topics; hostile topics must not fill the memory


def filter_problem(pattern: str) -> str | None:
    """What is wrong with a topic filter, in words; None if it is well-formed."""
    if not pattern or "\0" in pattern or len(pattern.encode("utf-8", "surrogatepass")) > 65535:
        return "a topic filter has 1 to 65535 bytes and no NUL"
    if pattern.startswith("$share/"):
        parts = pattern.split("/", 2)
        if len(parts) < 3 or not parts[1] or not parts[2] or "+" in parts[1] or "#" in parts[1]:
            return "a shared subscription is written $share/group/filter"
    levels = shared(pattern).split("/")
    if any("#" in level for level in levels[:-1]) or ("#" in levels[-1] and levels[-1] != "#"):
        return "# must stand alone at the end, as in site/#"
    if any("+" in level and level != "+" for level in levels):
        return "+ must stand alone between slashes, as in site/+/temp"
    return None


def shared(pattern: str) -> str:
    """The filter inside a shared subscription; any other filter as it is."""
    return pattern.split("/", 2)[2] if pattern.startswith("$share/") else pattern


def matches(pattern: str, topic: str) -> bool:
    """Whether a topic matches a filter, as MQTT 5 section 4.7 says."""
    if topic.startswith("$") and pattern[:1] in ("+", "#"):
        return False
    levels = topic.split("/")
    parts = pattern.split("/")
    for at, part in enumerate(parts):
        if part == "#":
            return True  # also the level above: site/# matches site
        if at >= len(levels) or (part != "+" and part != levels[at]):
            return False
    return len(levels) == len(parts)


class Router:
    """Topic to stream; the first filter that matches wins.

    `keys` holds every topic seen as one shared text, `streams` its stream (NOWHERE where no filter matches or the topic
    is not valid), `only` the one stream of all topics seen, or None when there are several.
    """

    def __init__(self, rules: Sequence[tuple[str, str]]) -> None:
        self._rules = [(shared(pattern), stream) for pattern, stream in rules]
        self._size = 0
        self.keys: dict[str, str] = {}
        self.streams: dict[str, str] = {}
        self.only: str | None = None

    def learn(self, topics: Iterable[str]) -> None:
        """Route topics that are not known yet. Afterwards all of `topics` are known."""
        wanted = set(topics)
        new = [topic for topic in wanted if topic not in self.keys]
        if self._size + sum(map(len, new)) > MOST_CACHED:
            self.keys, self.streams, self._size = {}, {}, 0
            new = list(wanted)
        for topic in new:
            self.keys[topic] = topic
            self.streams[topic] = self._stream(topic)
            self._size += len(topic)
        found = set(self.streams.values())
        self.only = found.pop() if len(found) == 1 else None

    def _stream(self, topic: str) -> str:
        if not topic or "+" in topic or "#" in topic or "\0" in topic:
            return NOWHERE
        return next((stream for pattern, stream in self._rules if matches(pattern, topic)), NOWHERE)
