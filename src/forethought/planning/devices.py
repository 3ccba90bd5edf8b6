"""The devices a plan may name, with their makers' figures.

Operations are dense bfloat16 ones (datasheets that print figures with sparsity are halved), memory
in units of 1e9 bytes. Prices are nobody's quotation: a round figure for renting one such device on
demand by the hour, power and host included. Give your own with `--price`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from forethought.config import DType

NODE = 8
"""Devices of a machine; beyond it they speak over the network."""
NETWORK = 400e9
"""Bytes per second into a machine of `NODE` devices: eight 400 Gbit/s adapters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator, or this machine's processor.

    Example: `Device(name="h200", flops=989e12, bandwidth=4.8e12, memory=141e9, link=450e9,
    price=3.5)`
    """

    name: str
    flops: float
    """Dense bfloat16 operations per second."""
    bandwidth: float
    """Bytes per second from its memory."""
    memory: float
    """Bytes."""
    link: float
    """Bytes per second, one way, to the other devices of a machine."""
    price: float
    """USD per hour of one device."""
    bfloat16: bool = True
    """Whether it multiplies bfloat16; where it does not, such weights are held in float32."""

    def held(self, dtype: DType) -> DType:
        """The number type in which it holds weights of `dtype`."""
        return dtype if self.bfloat16 else "float32"

    @property
    def is_cpu(self) -> bool:
        """Whether it is this machine's processor, which is measured and not looked up."""
        return self.name == "cpu"


DEVICES = {
    device.name: device
    for device in (
        Device(name="h200", flops=989e12, bandwidth=4.8e12, memory=141e9, link=450e9, price=3.5),
        Device(name="h100", flops=989e12, bandwidth=3.35e12, memory=80e9, link=450e9, price=2.5),
        Device(
            name="a100-80gb", flops=312e12, bandwidth=2.04e12, memory=80e9, link=300e9, price=1.5
        ),
        Device(name="l40s", flops=362e12, bandwidth=864e9, memory=48e9, link=32e9, price=0.9),
        Device(name="rtx4090", flops=165e12, bandwidth=1.01e12, memory=24e9, link=32e9, price=0.4),
        # Figures of the machine at hand; `rates.measure_cpu` replaces the first two.
        Device(name="cpu", flops=0, bandwidth=20e9, memory=0, link=20e9, price=0.1),
    )
}


def find_device(name: str, price: float | None = None) -> Device:
    """The device of that name, at your price if you give one.

    Raises: ValueError if the name is not in the table or the price is negative.
    """
    if name not in DEVICES:
        raise ValueError(f"--gpu: {name!r} is not in the table; it has {', '.join(DEVICES)}")
    device = DEVICES[name]
    if price is None:
        return device
    if price < 0:
        raise ValueError(f"--price: {price} is negative; give USD per hour of one device")
    return replace(device, price=price)
