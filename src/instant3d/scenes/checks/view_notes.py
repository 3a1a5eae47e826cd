"""One-line notes on views that were read, by the doctor's checks: for commands that use a scene without checking it."""

from __future__ import annotations

import torch

from instant3d.scenes.checks import camera_hypotheses, silhouettes
from instant3d.scenes.checks.camera_checks import extent_findings
from instant3d.scenes.scene_folder import Scene

VISIBLE = 0.5  # alpha of a pixel that shows the object


def view_notes(scene: Scene) -> list[str]:
    """Return one line for each contradiction of views to their cameras, or to an object in the cube [-1, 1]^3.

    Args:
        scene: Views as they were read; fewer than three that show something are not judged.
    """
    shown = scene.views.alpha.amax((-3, -2, -1)) >= VISIBLE
    if int(shown.sum()) < camera_hypotheses.LEAST_VIEWS:
        return []
    shapes = silhouettes.silhouettes(silhouettes.downsize(scene.views.alpha[shown].cpu()))
    cameras = scene.views.cameras[torch.nonzero(shown)[:, 0]]
    contradiction = camera_hypotheses.contradiction(shapes, cameras)
    if contradiction > camera_hypotheses.WRONG:
        return [
            f"{scene.path}: its cameras contradict the outlines in its images by {contradiction:.1f} px; "
            f"`instant3d doctor {scene.path}` looks for the cause"
        ]
    found = extent_findings(str(scene.path), shapes, cameras)
    return [f"{scene.path}: {finding.kind}: {finding.evidence}; {finding.advice}" for finding in found]
