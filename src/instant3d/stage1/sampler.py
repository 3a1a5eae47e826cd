"""Sampling of view grids: text embeddings, classifier-free guidance from a blob-shaped initial image, VAE decoding.

A grid depends on its own prompt and seed alone, not on the other grids of its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from instant3d.modules.diffusion.components import Components
from instant3d.modules.diffusion.text import TextEmbedding, encode
from instant3d.stage1.compiled_unet import CompiledUNet
from instant3d.stage1.initial_noise import start_image, start_latents
from instant3d.stage1.sampling_options import Sampling, Start
from instant3d.stage1.spaced_scheduler import spaced_scheduler
from instant3d.utils.data_order import generator_from_key
from instant3d.utils.devices import fast_dtype
from instant3d.utils.progress import OnStep


class GridSampler:
    """Generates grids with an SDXL fine-tuned for them.

    Args:
        components: All components of the model.
        at_once: Most grids that are denoised together, which bounds memory; all by default.
        torch_compile: Whether the UNet is compiled by torch.compile, with CUDA graphs on a GPU: shorter steps for some
            minutes at the first grids.

    Raises:
        ValueError: `at_once` is below 1.
    """

    def __init__(self, components: Components, *, at_once: int | None = None, torch_compile: bool = False) -> None:
        if at_once is not None and at_once < 1:
            raise ValueError(f"at_once, the grids denoised together, must be at least 1, got {at_once}")
        self.components, self.at_once = components, at_once
        self.compiled = CompiledUNet(components.unet) if torch_compile else None
        self._starts: dict[tuple[Start, float], Any] = {}

    def __call__(
        self,
        prompts: Sequence[str],
        *,
        sampling: Sampling = Sampling(),
        seeds: Sequence[int] | None = None,
        negative: str | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Sample one grid for each prompt.

        For several seeds of one prompt, repeat it: equal prompts are encoded once.

        Args:
            prompts: B texts.
            sampling: Steps, guidance, sampler and initial image.
            seeds: Random seed of each grid; 0, 1, ... by default.
            negative: Negative prompt of classifier-free guidance; by default the empty prompt.
            on_step: Called after each denoising step with the steps done and their number.

        Returns:
            Grids, (B, 3, H, W) in [0, 1].

        Raises:
            ValueError: A setting is out of range, or the numbers of seeds and prompts differ.
        """
        text, empty = self.encode(prompts, negative)
        seeds = range(len(prompts)) if seeds is None else seeds
        return self.decode(self.denoise(text, empty, sampling=sampling, seeds=seeds, on_step=on_step))

    def encode(self, prompts: Sequence[str], negative: str | None = None) -> tuple[TextEmbedding, TextEmbedding]:
        """Embed the prompts (B), and the negative prompt as often; zeros, SDXL's empty prompt, if there is none.

        Raises:
            ValueError: `prompts` is one text or empty.
        """
        if isinstance(prompts, str):
            raise ValueError("prompts must be a list of texts, got one text; put it into a list")
        unique = list(dict.fromkeys(prompts))
        text = encode(self.components, unique)[[unique.index(prompt) for prompt in prompts]]
        if negative is None:
            return text, TextEmbedding.zeros_like(text)
        return text, encode(self.components, [negative])[[0] * len(prompts)]

    def denoise(
        self,
        text: TextEmbedding,
        negative: TextEmbedding,
        *,
        sampling: Sampling = Sampling(),
        seeds: Sequence[int],
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Sample clean latents.

        Args:
            text: Embedded prompts, B of them.
            negative: Embedded negative prompts, B of them.
            sampling: Steps, guidance, sampler and initial image.
            seeds: Random seed of each grid.
            on_step: Called after each denoising step with the steps done and their number.

        Returns:
            (B, C, h, w) float32, multiplied by the VAE's scaling factor.

        Raises:
            ValueError: A setting is out of range, or the numbers of seeds and prompts differ.
        """
        _check(sampling, len(text.tokens), seeds)
        at_once = self.at_once or len(seeds)
        turns = [slice(k, k + at_once) for k in range(0, len(seeds), at_once)]
        total = len(turns) * sampling.steps
        done = 0

        def step_done() -> None:
            nonlocal done
            done += 1
            if on_step is not None:
                on_step(done, total)

        # tensors of the inference mode are not for CUDA graphs
        with torch.inference_mode() if self.compiled is None else torch.no_grad():
            parts = [self._batch(text[some], negative[some], sampling, seeds[some], step_done) for some in turns]
        return torch.cat(parts)  # outside inference mode, so that the result is an ordinary tensor

    def start(self, scheduler: Any, sampling: Sampling, seeds: Sequence[int]) -> Tensor:
        """Initial noisy latents, from one random generator for each grid.

        Args:
            scheduler: A diffusers scheduler whose timesteps are set.
            sampling: The initial image, and the width of its blob.
            seeds: B random seeds.

        Returns:
            (B, C, h, w), in the scheduler's own scaling.
        """
        unet = self.components.unet
        shape = (unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
        # on the CPU, whose generators give the same numbers on every machine
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = torch.stack([torch.randn(shape, generator=each) for each in generators])
        posterior = self._posterior(sampling.start, sampling.sigma)
        if posterior is None or self.components.layout.sampling == "trailing":
            clean = None if posterior is None else posterior.mode()
        else:
            drawn = torch.stack([torch.randn(shape, generator=each) for each in generators])
            clean = posterior.mean + posterior.std * drawn.to(posterior.mean.device)
        return start_latents(self._scaled(clean), noise.to(unet.device), scheduler)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (B, C, h, w) to grids (B, 3, H, W) in [0, 1], one at a time: a full one takes gigabytes."""
        vae = self._vae()
        raw = (latents / vae.config.scaling_factor).to(vae.device, vae.dtype)
        half = _half(vae) and not vae.config.force_upcast
        with torch.inference_mode(), torch.autocast(vae.device.type, torch.bfloat16, enabled=half):
            grids = [vae.decode(one, return_dict=False)[0] for one in raw.split(1)]
        return (torch.cat(grids).float() / 2 + 0.5).clamp(0, 1)

    def _posterior(self, start: Start, sigma: float) -> Any:
        """The VAE's posterior of the initial image, encoded once; None for pure noise."""
        shrunk = self.components.layout.sampling == "legacy"
        image = start_image(start, self.components.grid_size, sigma, shrunk=shrunk)
        if image is None:
            return None
        if (start, sigma) not in self._starts:
            vae = self._vae()
            with torch.no_grad():
                self._starts[start, sigma] = vae.encode((2 * image - 1)[None].to(vae.device, vae.dtype)).latent_dist
        return self._starts[start, sigma]

    def _scaled(self, clean: Tensor | None) -> Tensor | None:
        """Latents (B or 1, C, h, w) as the UNet expects them, on its device."""
        if clean is None:
            return None
        return (clean.float() * self.components.vae.config.scaling_factor).to(self.components.unet.device)

    def _vae(self) -> Any:
        """The VAE, in float32 if its settings demand it (`force_upcast`): SDXL's own overflows in half precision."""
        vae = self.components.vae
        return vae.float() if vae.config.force_upcast else vae

    def _batch(
        self,
        text: TextEmbedding,
        negative: TextEmbedding,
        sampling: Sampling,
        seeds: Sequence[int],
        step_done: Callable[[], None],
    ) -> Tensor:
        """Denoise a batch, which becomes one of a size that is compiled already by repeating its last grid."""
        count = len(seeds)
        more = 0 if self.compiled is None else self.compiled.padded(count) - count
        rows = [*range(count), *[count - 1] * more]
        return self._denoise(text[rows], negative[rows], sampling, [seeds[row] for row in rows], step_done)[:count]

    def _denoise(
        self,
        text: TextEmbedding,
        negative: TextEmbedding,
        sampling: Sampling,
        seeds: Sequence[int],
        step_done: Callable[[], None],
    ) -> Tensor:
        components = self.components
        scheduler, timesteps = spaced_scheduler(components.scheduler.config, sampling, components.layout.sampling)
        latents = self.start(scheduler, sampling, seeds)
        generators = [generator_from_key(seed, 1) for seed in seeds]  # LCM adds noise at every step
        guided = guided_steps(sampling)
        both = TextEmbedding.cat([negative, text])
        for done, (step, timestep) in enumerate(zip(scheduler.timesteps, timesteps.to(latents.device), strict=True)):
            scaled = scheduler.scale_model_input(latents, step)
            if done < guided:
                away, toward = self._predict(torch.cat([scaled, scaled]), timestep, both).chunk(2)
                prediction = classifier_free_guidance(away, toward, sampling.guidance, sampling.rescale)
            else:
                prediction = self._predict(scaled, timestep, text)
            latents = scheduler.step(prediction, step, latents, generator=generators, return_dict=False)[0]
            step_done()
        return latents

    def _predict(self, latents: Tensor, timestep: Tensor, text: TextEmbedding) -> Tensor:
        """The UNet's output (B, C, h, w) in float32, conditioned on the grid's size and no crop."""
        unet, size = self.components.unet, float(self.components.grid_size)
        text = text.to(unet.device, unet.dtype)
        sizes = text.pooled.new_tensor([size, size, 0.0, 0.0, size, size]).expand(len(latents), -1)
        inputs = latents.to(unet.dtype), timestep
        conditions = {
            "encoder_hidden_states": text.tokens,
            "added_cond_kwargs": {"text_embeds": text.pooled, "time_ids": sizes},
            "return_dict": False,
        }
        with torch.autocast(unet.device.type, torch.bfloat16, enabled=_half(unet)):
            if self.compiled is None:
                prediction: Tensor = unet(*inputs, **conditions)[0]
            else:
                prediction = self.compiled(*inputs, **conditions)
        return prediction.float()


def guided_steps(sampling: Sampling) -> int:
    """Count the steps with guidance, the first ones."""
    return 0 if sampling.guidance == 1 else round(sampling.guidance_stop * sampling.steps)


def classifier_free_guidance(away: Tensor, toward: Tensor, guidance: float, rescale: float = 0.0) -> Tensor:
    """Classifier-free guidance of predictions (Ho and Salimans 2022): away + w (toward - away).

    Args:
        away: Prediction for the negative prompt, (B, ...).
        toward: Prediction for the prompt, (B, ...).
        guidance: Guidance scale w.
        rescale: Share phi of the result that is scaled to the standard deviation of `toward` (Lin et al. 2024,
            eqs. 14-16).
    """
    guided = away + guidance * (toward - away)
    if rescale == 0:
        return guided
    dims = tuple(range(1, guided.dim()))
    before, after = toward.std(dims, keepdim=True), guided.std(dims, keepdim=True)
    return guided * (rescale * before / after + (1 - rescale))


def _half(network: Any) -> bool:
    """Whether to use bfloat16 in a float32 network: on CPUs that support it, in less than 2/3 of the time."""
    return network.device.type == "cpu" and network.dtype == torch.float32 and fast_dtype() is torch.bfloat16


def _check(sampling: Sampling, count: int, seeds: Sequence[int]) -> None:
    if len(seeds) != count:
        raise ValueError(f"each grid has its own seed, got {len(seeds)} seeds for {count} prompts; give as many")
    if sampling.steps < 1:
        raise ValueError(f"sampling takes at least one step, got {sampling.steps}")
    if not 0 <= sampling.guidance_stop <= 1:
        raise ValueError(f"guidance_stop is a share of the steps between 0 and 1, got {sampling.guidance_stop}")
    if not 0 <= sampling.rescale <= 1:
        raise ValueError(f"rescale is a share between 0 and 1, got {sampling.rescale}")
