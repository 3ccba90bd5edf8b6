"""The shape of a recipe: what a user may write, what it means, what is allowed.

Importing this package loads neither torch nor any engine. Each field's meaning stands under it.
"""

from forethought.config.engines import (
    EngineConfig,
    OpenAIEngine,
    Price,
    ScriptedEngine,
    TransformersEngine,
    VllmEngine,
)
from forethought.config.judges import (
    ArmoRMJudge,
    CustomJudge,
    JudgeConfig,
    LLMJudge,
    Member,
    MixtureJudge,
    PairwiseJudge,
    RatingJudge,
    RewardModelJudge,
    Rounds,
    Route,
    SingleJudge,
    VerifierJudge,
)
from forethought.config.recipe import (
    AnswersConfig,
    ColumnsConfig,
    DatasetPrompts,
    EvaluationConfig,
    FilePrompts,
    HeldOut,
    JudgePart,
    LaunchConfig,
    LoraSettings,
    MicroworldPrompts,
    OpenAISampling,
    PairsConfig,
    PromptsConfig,
    PromptSource,
    Recipe,
    SamplePart,
    SamplingConfig,
    SamplingShape,
    ScriptedSampling,
    SelectionConfig,
    TrainingConfig,
    TransformersSampling,
    VllmSampling,
    explain,
)
from forethought.config.shape import Device, DType, ModelConfig, Operational, Shape
