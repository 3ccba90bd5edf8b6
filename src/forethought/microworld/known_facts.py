"""Facts of one step, such as `17 + 5 = 22`: what worked thoughts are made of.

The seed model learns them by heart before it sees whole demonstrations.
"""

from random import Random
from typing import Final

FACTS: Final = (
    *("sum", "small sum", "difference") * 3,
    *("spread", "bill", "extreme", "parity") * 2,
    *("double", "price"),
)
"""The kinds of facts, each as often as the number of its members asks for."""


def one_step(rng: Random) -> tuple[str, str]:
    """A question of one step and how a worked thought writes the step down."""
    a, b, c = rng.randint(1, 36), rng.randint(1, 9), rng.randint(1, 20)
    parity = ("even", "odd")
    match rng.choice(FACTS):
        case "sum":
            return f"{a} + {b}", f"{a} + {b} = {a + b}"
        case "difference":
            low, high = sorted((a, b))
            return f"{high} - {low}", f"{high} - {low} = {high - low}"
        case "spread":
            low, high = sorted((rng.randint(1, 20), c))
            return f"{high} - {low}", f"{high} - {low} = {high - low}"
        case "double":
            half = rng.randint(1, 15)
            return f"{half} + {half}", f"{half} + {half} = {2 * half}"
        case "small sum":
            digit = rng.randint(0, 9)
            return f"{digit} + {b}", f"{digit} + {b} = {digit + b}"
        case "parity":
            left = rng.choice(parity)
            step = f"{left} and {b} is"
            return step, f"{step} {parity[(parity.index(left) + b) % 2]}"
        case "price":
            left, right = rng.randint(2, 5), rng.randint(2, 5)
            return f"{left} x {right}", f"{left} x {right} = {left * right}"
        case "bill":
            left, right = (rng.randint(2, 5) * rng.randint(2, 5) for _ in range(2))
            return f"{left} + {right}", f"{left} + {right} = {left + right}"
        case _:
            numbers = rng.sample(range(1, 21), 4)
            listed = " ".join(map(str, numbers))
            if rng.random() < 0.5:
                return f"largest of {listed}", f"largest {max(numbers)}"
            return f"smallest of {listed}", f"smallest {min(numbers)}"
