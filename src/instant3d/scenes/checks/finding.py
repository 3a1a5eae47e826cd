"""What the doctor has to say of a scene. Knows nothing of how it was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FAULT, NOTE = "fault", "note"  # training on it goes wrong; training on it works, but the user may want to know


@dataclass(frozen=True)
class Finding:
    """One fault of one scene, why it is believed, and what to do about it."""

    kind: str  # such as "camera convention"
    scene: str
    sure: float  # 0 is a guess, 1 is certain
    evidence: str
    advice: str
    level: str = FAULT
    frames: tuple[int, ...] = ()  # those concerned; none named: all
    fix: str | None = None  # what `--fix` takes the matrices for; None: nothing that it dares to do
    fits: tuple[str, ...] = ()  # where several cures fit this scene alike: which
    fixed: bool = False

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        fields = {"scene": self.scene, "kind": self.kind, "level": self.level, "sure": round(self.sure, 3)}
        more = {"frames": list(self.frames) or None, "cure": self.fix, "cured": self.fixed or None}
        told = {key: value for key, value in more.items() if value is not None}
        return {**fields, "evidence": self.evidence, "advice": self.advice, **told}


@dataclass(frozen=True)
class SceneReport:
    """All findings in one scene by itself, and what comparing it with others needs."""

    scene: str
    findings: tuple[Finding, ...] = ()
    frames: int = 0
    id: str = ""
    fingerprint: bytes = b""  # float32 numbers that look alike where pictures do; empty where there are none
