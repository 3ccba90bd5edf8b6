"""The shape of a recipe: what a user may write, what it means, what is allowed.

Importing this package loads neither torch nor any engine. Each field's meaning stands under it.
"""

from forethought.config.base import (
    ConfigModel,
    Device,
    DType,
    ModelConfig,
    ModelSource,
    Operational,
)
from forethought.config.engines import (
    EngineConfig,
    OpenAIEngine,
    OpenAISampling,
    Price,
    SamplingConfig,
    SamplingFacts,
    ScriptedEngine,
    ScriptedSampling,
    TransformersEngine,
    TransformersSampling,
    VllmEngine,
    VllmSampling,
)
from forethought.config.evaluation import (
    AccuracyMeasure,
    AlpacaEvalMeasure,
    AnswersConfig,
    ArenaHardMeasure,
    DrawConfig,
    EvaluationConfig,
    MeasureConfig,
    MeasuresConfig,
    ProbeMeasure,
    SecondJudgeMeasure,
    SelectionConfig,
    WinRateMeasure,
)
from forethought.config.judges import (
    ArmoRMJudge,
    CustomJudge,
    JudgeConfig,
    Member,
    MixtureJudge,
    RewardModelJudge,
    Route,
    ScoringJudge,
    SingleJudge,
    VerifierJudge,
)
from forethought.config.llm_judges import (
    ChecklistJudge,
    LLMJudge,
    PairwiseJudge,
    RatingJudge,
    Tournament,
    most_circles,
)
from forethought.config.mistakes import explain, wanted
from forethought.config.prompts import (
    ColumnsConfig,
    DatasetPrompts,
    FilePrompts,
    HeldOut,
    MicroworldPrompts,
    PromptsConfig,
    PromptSource,
    path_or_url,
)
from forethought.config.recipe import (
    EvaluatePart,
    JudgePart,
    KeepEvery,
    LaunchConfig,
    Recipe,
    SamplePart,
)
from forethought.config.trackers import TrackerConfig
from forethought.config.training import HybridConfig, LoraSettings, PairsConfig, TrainingConfig
from forethought.config.warm_start import WarmStartConfig
from forethought.config.workers import OptionalWorkers, RayConfig, Workers
