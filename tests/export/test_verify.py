"""How far a bundle is from PyTorch: errors relative to what is compared, and rounding where that is almost nothing."""

import numpy as np

from edgepeft_export.verify import MAX_ERROR, loss_error, relative_error


def test_the_loss_of_a_model_that_is_nearly_right() -> None:
    """A loss of 1e-7 is rounding, and so is a difference of half of it; that of larger losses is relative."""
    tiny, other = np.float32(1e-7), np.float32(1.5e-7)
    assert relative_error(other, tiny) > MAX_ERROR
    assert loss_error(other, tiny) <= MAX_ERROR
    assert loss_error(np.float32(0.5), np.float32(0.501)) > MAX_ERROR
    assert loss_error(np.float32(200.0), np.float32(200.01)) == relative_error(
        np.float32(200.0), np.float32(200.01)
    )
    assert np.isnan(loss_error(np.float32(np.nan), np.float32(1.0)))
