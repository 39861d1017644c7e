"""Settings of the learning loop, one section a part."""

from __future__ import annotations

from service.learning.canary_settings import CanarySettings
from service.learning.explore_settings import ExploreSettings
from service.learning.online_settings import DriftSettings, OnlineSettings
from service.learning.shadow_settings import ShadowSettings
from service.learning.signal_settings import ImplicitSettings, JudgeSettings, VerifierSettings, VerifySettings
from service.learning.trust_settings import TrustSettings
from service.models.settings import ModelsSettings
from service.section import Section


class LearningSettings(Section):
    """How the gateway learns from its own traffic; everything is off unless its section is there.

    Attributes
    ----------
    explore, shadow, canary, models, verify, verifiers, judge, implicit, trust, online, drift
        See their classes.
    """

    explore: ExploreSettings | None = None
    shadow: ShadowSettings | None = None
    canary: CanarySettings | None = None
    models: ModelsSettings | None = None
    verify: VerifySettings = VerifySettings()
    verifiers: tuple[VerifierSettings, ...] = ()
    judge: JudgeSettings | None = None
    implicit: ImplicitSettings | None = None
    trust: TrustSettings = TrustSettings()
    online: OnlineSettings | None = None
    drift: DriftSettings | None = None
