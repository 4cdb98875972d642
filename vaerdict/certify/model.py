"""What certificates know of a model, whatever the image: constants, rounding, and copies made for bound propagation."""

from dataclasses import dataclass, field
from functools import cached_property

from jaxtyping import Float
from torch import Tensor, nn

from vaerdict.certify.propagation import BoundedMap
from vaerdict.certify.rounding import Rounding, measure_rounding
from vaerdict.certify.seam import Seam, find_seam
from vaerdict.certify.sensitivity import Sensitivity, measure_sensitivity
from vaerdict.lipschitz import NoSoundBound, dense_chain, trace
from vaerdict.models.gaussian import HalfExponential
from vaerdict.options import CertifyOptions
from vaerdict.vae import BoundableVAE, fingerprint

WIDEST = 1024
"""Modules with layers of more values than this are not bounded on balls."""


@dataclass(frozen=True)
class ModelBounds:
    """A VAE in evaluation mode with everything that is bounded once.

    Attributes:
        vae: the model.
        example: one image, for shapes, device and dtype.
        options: of the certificates.
        refused: sensitivities that do not exist for the model, with the reasons.
        identity: what all this holds for.
    """

    vae: BoundableVAE
    example: Float[Tensor, "1 ..."]
    options: CertifyOptions
    refused: dict[str, str] = field(default_factory=dict)
    identity: tuple[object, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "identity", self.identify(self.vae, self.example))

    @staticmethod
    def identify(vae: BoundableVAE, example: Float[Tensor, "1 ..."]) -> tuple[object, ...]:
        """Give what the bounds depend on besides the options: the weights, and where and how they are evaluated."""
        assert isinstance(vae, nn.Module)
        return fingerprint(vae), tuple(example.shape[1:]), example.dtype, example.device

    def is_local(self, module: nn.Module) -> bool:
        """Whether bounds on balls can be made of a module, and in less than seconds each."""
        try:
            chain = dense_chain(trace(module, tuple(self.example.shape[1:])))
        except NoSoundBound as reason:
            self.refused.setdefault("local", str(reason))
            return False
        widest = max(len(one.bias) for one in chain.maps)
        if widest > WIDEST:
            self.refused.setdefault("local", f"layers of {widest} values take too long on balls (most: {WIDEST})")
        return widest <= WIDEST

    @cached_property
    def sensitivity(self) -> Sensitivity:
        """Bound the global Lipschitz constants."""
        return measure_sensitivity(self.vae, self.example)

    @cached_property
    def mean_rounding(self) -> Rounding:
        """Bound the rounding of the posterior mean."""
        return measure_rounding(self.vae.mean_map, self.example)

    @cached_property
    def decoder_rounding(self) -> Rounding:
        """Bound the rounding of reconstructions."""
        return measure_rounding(self.vae.decoder_map, self.example.new_zeros(1, self.vae.latent))

    @cached_property
    def std_rounding(self) -> Rounding:
        """Bound the rounding of the standard deviations, or of their logarithms where those are bounded."""
        module = self.half_log_std or self.vae.std_map
        assert module is not None
        return measure_rounding(module, self.example)

    @cached_property
    def half_log_std(self) -> nn.Module | None:
        """Give the map from images to log-variances, where standard deviations are the exponentials of their halves."""
        layers = list(self.vae.std_map.children()) if isinstance(self.vae.std_map, nn.Sequential) else []
        places = [i for i, layer in enumerate(layers) if type(layer) is HalfExponential]
        if len(places) != 1 or any(type(layer) is not nn.Flatten for layer in layers[places[0] + 1 :]):
            return None
        return nn.Sequential(*layers[: places[0]], nn.Flatten())

    @cached_property
    def seam(self) -> Seam | str:
        """Part the decoder behind its first layer, or say why that cannot be done."""
        return find_seam(self.vae, tuple(self.example.shape[1:]))

    def missing_std(self, *, boxes: bool) -> str | None:
        """Give the reason why nothing bounds the standard deviations of moved images; None where something does.

        Args:
            boxes: whether boxes count.
        """
        constant = self.sensitivity.std
        if not isinstance(constant, str) or (boxes and isinstance(self.bounded_std, BoundedMap)):
            return None
        module = self.half_log_std or self.vae.std_map
        assert module is not None
        if self.options.local and self.is_local(module):
            return None
        return f"{constant}; on balls: {self.refused.get('local', 'local bounds are switched off')}"

    @cached_property
    def bounded_mean(self) -> BoundedMap | str:
        """Give the posterior mean for bound propagation, or why not."""
        return self._bounded(self.vae.mean_map, tuple(self.example.shape[1:]), forward=False)

    @cached_property
    def bounded_std(self) -> BoundedMap | str | None:
        """Give the standard deviations for bound propagation, or why not; None where they are constant."""
        if self.vae.std_map is None:
            return None
        return self._bounded(self.vae.std_map, tuple(self.example.shape[1:]), forward=False)

    @cached_property
    def bounded_decoder(self) -> BoundedMap | str:
        """Give the decoder for bound propagation, or why not."""
        return self._bounded(self.vae.decoder_map, (self.vae.latent,), forward=True)

    def _bounded(self, module: nn.Module, shape: tuple[int, ...], *, forward: bool) -> BoundedMap | str:
        """Rewrite a module; the encoder's rounding is added to what is made of its boxes, not to them."""
        if not self.options.propagation:
            return "bound propagation is switched off"
        try:
            return BoundedMap(module, shape, forward=forward, rounded=forward)
        except NoSoundBound as reason:
            return f"bound propagation: {reason}"
