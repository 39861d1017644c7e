"""The pocket pool: four tiny mixture-of-experts language models, trained by us from scratch on tasks we generate.

``python -m training.pocket --help`` lists the stages. The public face for other code is `training.pocket.tasks`
(the generator) and `training.pocket.scoring` (the checker); both load without torch.
"""

from training.pocket.scoring import score
from training.pocket.tasks import TASKS, balanced, generate
from training.pocket.types import Example

__all__ = ["TASKS", "Example", "balanced", "generate", "score"]
