"""Constraints of the tests' own."""

from newton_pack.sampler import Update
from newton_pack.sampler.operators.mask import masked_rms


class ByError:
    """Derived classes give `error(x0, sigma)`, an error direction; it serves as what travels over a socket too."""

    unit = "rms of the test's error"
    spatial = True

    def bind(self, space):
        return self

    def update(self, x0, sigma):
        e = self.error(x0, sigma)
        return Update(e, masked_rms(e))

    def residual(self, x0, sigma):
        return masked_rms(self.error(x0, sigma))
