"""What the program asks of every judge."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Self

from forethought.config.base import ModelSource
from forethought.config.workers import Pooled

if TYPE_CHECKING:
    from forethought.config.judges import Route


class JudgeFacts(Pooled):
    """What the program asks of every judge. Each judge answers what is otherwise for it."""

    grades: ClassVar[bool] = False
    """Whether it tells right from wrong, so that scores within 0 and 1 are shares of right ones."""
    more_devices: ClassVar[str] = "judge.workers"
    """The setting by which it works on more devices."""

    @property
    @abstractmethod
    def title(self) -> str:
        """A few words for a reader."""

    @property
    def is_relative(self) -> bool:
        """Whether its scores compare the responses of one prompt only and mean nothing across
        prompts."""
        return False

    @property
    def gives_shares(self) -> bool:
        """Whether a prompt's score is known to lie within 0 and 1."""
        return self.is_relative

    @property
    def asks_a_model(self) -> bool:
        """Whether its answers are worth keeping: a model gives them, not a function."""
        return True

    @property
    def free_to_try(self) -> bool:
        """Whether it may be tried on responses that no policy gave: no function of the user's own,
        which may fail on them, and no server."""
        return False

    @property
    def sources(self) -> tuple[tuple[str, ModelSource], ...]:
        """The models that it loads, each after the field that names it."""
        return ()

    @property
    def devices(self) -> int:
        """Devices that one of it computes on; 0 where it computes on none."""
        return 0

    @property
    def gpus(self) -> int | None:
        """GPUs that it needs wherever it runs; `None` where that depends on the machine."""
        return None

    @property
    def panels(self) -> tuple[Route, ...]:
        """Judges that it is made of; empty where it judges by itself."""
        return ()

    @property
    def asked_again(self) -> Self:
        """The same judge, whose replies are drawn anew where they are drawn by chance."""
        return self

    def calls_per_group(self, responses: int) -> int:
        """Calls of a chat model for one prompt with so many responses, at most, without retries."""
        return 0
