"""Findings of the scene checks and the report of one scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FAULT, NOTE = "fault", "note"  # harms training; harmless, but worth knowing


@dataclass(frozen=True)
class Finding:
    """One fault of one scene, its evidence, and what to do about it.

    Attributes:
        kind: Such as "camera convention".
        scene: Path of the scene.
        sure: Confidence, from 0 (a guess) to 1 (certain).
        evidence: Why the fault is assumed.
        advice: What to do.
        level: `FAULT` or `NOTE`.
        frames: Affected frames; empty means all.
        fix: The camera convention from which `--fix` converts; None if it changes nothing.
        fits: The camera conventions that fit this scene equally well, if there are several.
        fixed: Whether it has been repaired.
    """

    kind: str
    scene: str
    sure: float
    evidence: str
    advice: str
    level: str = FAULT
    frames: tuple[int, ...] = ()
    fix: str | None = None
    fits: tuple[str, ...] = ()
    fixed: bool = False

    def record(self) -> dict[str, Any]:
        """Return the finding as JSON data."""
        fields = {"scene": self.scene, "kind": self.kind, "level": self.level, "sure": round(self.sure, 3)}
        more = {"frames": list(self.frames) or None, "cure": self.fix, "cured": self.fixed or None}
        present = {key: value for key, value in more.items() if value is not None}
        return {**fields, "evidence": self.evidence, "advice": self.advice, **present}


@dataclass(frozen=True)
class SceneReport:
    """All findings of one scene, and the data needed to compare it with others.

    Attributes:
        scene: Path of the scene.
        findings: Its findings.
        frames: Number of frames.
        id: Its object id.
        fingerprint: float32 vector that is similar for similar images; empty if there are too few images.
    """

    scene: str
    findings: tuple[Finding, ...] = ()
    frames: int = 0
    id: str = ""
    fingerprint: bytes = b""
