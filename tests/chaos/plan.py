"""What befalls the servers in a run of chaos, and when: drawn from the seed alone, so that it can be played again."""

from dataclasses import dataclass
from enum import StrEnum
from random import Random

SECONDS_OF_FAULTS = 22.0  # a worker killed at their end has its batches taken over within the settling
LONGEST_PAUSE = 1.2
SECONDS_OF_A_FAULT = (0.1, 0.4, 1.0, 2.5, 4.0)
LONG_STANDSTILL = 14.0  # longer than any time-out of ours for PostgreSQL


class Part(StrEnum):
    """One of the four that an installation consists of."""

    API = "API"
    WORKER = "worker"
    VALKEY = "Valkey"
    POSTGRES = "PostgreSQL"


class Kind(StrEnum):
    """SIGKILL; SIGSTOP and later SIGCONT; both again and again; or the signal by which it ends in order."""

    KILL = "killed"
    STOP = "stopped"
    SLOW = "slow"
    RESTART = "restarted"


@dataclass(frozen=True)
class Fault:
    """From `at`, in seconds since the load began, for so many `seconds`: one part, one or all of its processes."""

    at: float
    part: Part
    kind: Kind
    seconds: float
    all_processes: bool

    def __str__(self) -> str:
        return f"{self.at:.1f} s: {self.part} {self.kind} ({self.seconds:.1f} s)"


@dataclass(frozen=True)
class Plan:
    """How many processes there are, and what happens to them."""

    apis: int
    workers: int
    faults: list[Fault]


def plan_of(seed: int) -> Plan:
    """The plan of a seed: parts fall alone or two at once, every part at least once."""
    random = Random(f"faults {seed}")
    faults: list[Fault] = []
    at = random.uniform(0.5, 1.5)
    missed = list(Part)
    random.shuffle(missed)
    while at < SECONDS_OF_FAULTS:
        parts = random.sample(list(Part), k=random.choice((1, 1, 2)))
        if missed:
            parts = list({missed.pop(): None, **dict.fromkeys(parts[1:])})
        faults += [_fault(random, at, part) for part in parts]
        at += random.uniform(0.2, LONGEST_PAUSE) + random.choice((0, max(fault.seconds for fault in faults[-2:]) / 2))
    if random.random() < 0.2:
        faults.append(Fault(SECONDS_OF_FAULTS / 3, Part.POSTGRES, Kind.STOP, LONG_STANDSTILL, all_processes=True))
    return Plan(1 + seed % 2, 1 + seed // 2 % 2, sorted(faults, key=lambda fault: fault.at))


def _fault(random: Random, at: float, part: Part) -> Fault:
    return Fault(at, part, random.choice(list(Kind)), random.choice(SECONDS_OF_A_FAULT), random.random() < 0.7)
