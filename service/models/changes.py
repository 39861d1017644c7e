"""A change of the pool, from what is wanted to what is in effect: prepare, ask, work out, apply."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from llmrouter import artifact
from llmrouter.engine import RoutingEngine, TrainedRouters
from llmrouter.exceptions import ConfigError, DataError, UnknownModelError
from llmrouter.learning import (
    AnswerFile,
    JudgeScorer,
    ProfileProgress,
    ProfileResult,
    References,
    ReferenceScorer,
    Scorer,
    card_prior,
    placement,
    plan_profile,
    promote_artifact,
    replaced,
    repriced,
    run_profile,
    scored_from_profile,
    scored_from_rows,
    scored_from_table,
    with_prior,
    with_scored,
    without_model,
)
from llmrouter.outcomes import OutcomeTable
from llmrouter.types import FloatArray, Price
from service.models.described import with_described
from service.models.overlay import Overlay, locked, read_overlay, write_overlay
from service.models.places import (
    artifact_folder,
    artifact_home,
    artifact_id,
    lock_file,
    work_folder,
    write_artifact,
)
from service.models.records import Change, Prepared, Wanted
from service.models.show import TRAINED, how_known
from service.settings import Settings, build_policy

MOST_PLACED = 2000
"""Prompts over which a place on the frontier is worked out."""


class Bench:
    """Where changes are worked out: reads the configuration, keeps answers, writes artifacts.

    Parameters
    ----------
    load : callable
        ``load(overlay) -> Settings``: the configuration with an overlay, None for the one in effect.
    table : callable, optional
        ``table(settings) -> OutcomeTable``: where prompts come from.
    references : References, optional
        How answers are checked.
    """

    def __init__(
        self,
        load: Callable[[Overlay | None], Settings],
        *,
        table: Callable[[Settings], OutcomeTable] | None = None,
        references: References | None = None,
    ) -> None:
        self.load = load
        self._table = table
        self.references = references

    # Step 1

    def prepare(self, wanted: Wanted, *, only_referenced: bool = True) -> Prepared:
        """Check what is wanted against the configuration and, for a profile, choose the prompts; asks nobody.

        Raises
        ------
        LLMRouterError
            If it cannot be done.
        """
        before = self.load(None)
        overlay = self._overlay(before)
        names = [model.name for model in before.pool]
        changed = _with_change(overlay, wanted, names)
        after = before if changed == overlay else self.load(changed)
        prepared = Prepared(wanted, before, after, changed)
        if wanted.action in ("remove", "reprice"):
            return prepared
        if not prepared.model.generates:
            raise ConfigError(
                f"{wanted.new_name!r} answers no chats (endpoints), so the router has nothing to learn of it; add it "
                "to the pool by hand"
            )
        engine = self._engine(before)
        _check_unknown(engine.trained, wanted)
        table = self._prompts(before, required=wanted.how in ("profile", "log"))
        X = None if table is None else engine.encoder.encode(table.router_texts())
        plan = None
        if wanted.how == "profile" and table is not None and X is not None:
            plan = plan_profile(
                engine.trained,
                table,
                X,
                prepared.model.price.price,
                wanted.profile,
                references=self.references,
                only_referenced=only_referenced,
            )
        return replace(prepared, table=table, X=X, plan=plan)

    # Step 2

    async def ask(
        self,
        prepared: Prepared,
        scorer: Scorer,
        *,
        progress: Callable[[ProfileProgress], None] | None = None,
    ) -> ProfileResult:
        """Ask the model the chosen prompts, and have its answers judged; what was paid for is kept.

        Raises
        ------
        DataError
            If too much failed.
        """
        from llmrouter.pool import HTTPSessions
        from service.models.upstream import backend_of

        if prepared.plan is None:
            raise DataError("nothing was planned to be asked")
        model = prepared.model
        settings = replace(
            prepared.wanted.profile,
            limit_field=model.max_tokens_field or prepared.wanted.profile.limit_field,
            timeouts=model.timeouts.timeouts(),
        )
        sessions = HTTPSessions()
        backend = backend_of(prepared.after, model, sessions)
        try:
            return await run_profile(
                prepared.plan,
                backend,
                model.price.price,
                scorer,
                settings,
                kept=self.answers(prepared),
                progress=progress,
            )
        finally:
            await backend.aclose()
            await sessions.aclose()
            await close_scorer(scorer)

    def answers(self, prepared: Prepared) -> AnswerFile:
        """Return where answers of the model are kept, apart for every upstream and every limit on their length."""
        model = prepared.model
        identity = [model.backend, model.base_url, model.model or model.name, prepared.wanted.profile.max_output_tokens]
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
        safe = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in model.name)
        return AnswerFile(work_folder(prepared.before) / "answers" / f"{safe}-{digest}.jsonl")

    # Step 3

    def work_out(self, prepared: Prepared, result: ProfileResult | None = None) -> Change:
        """Return what the change comes to; writes the new artifact, and puts nothing into effect.

        Raises
        ------
        LLMRouterError
            If the model cannot be taken in.
        """
        before, after, wanted = prepared.before, prepared.after, prepared.wanted
        folder = artifact_folder(before)
        engine = self._engine(before)
        trained, found = self._changed(engine, prepared, result)
        facts = {"action": wanted.action, "model": wanted.new_name, **found}
        written = None
        if trained is not engine.trained:
            written = write_artifact(trained, folder, artifact_home(before)[0], base_id=engine.artifact_id, facts=facts)
        place = None
        texts = self._texts(prepared)
        if texts:
            cards = after.cards
            changed = artifact.load(
                folder if written is None else written,
                cards,
                policy=build_policy(after.policy),
                encoder=engine.encoder,
            )
            place = placement(engine, changed, texts)
        return Change(engine.artifact_id, written, place, facts)

    # Step 4

    def apply(self, prepared: Prepared, change: Change, result: ProfileResult | None = None) -> Change:
        """Put a change into effect: the artifact becomes the current one, the overlay gets the entry.

        Where another artifact has become the current one meanwhile, the change is worked out anew on that.

        Raises
        ------
        ConfigError
            If there is no overlay to write to and the configuration would have to change.
        """
        with locked(lock_file(prepared.before)):
            settings = self.load(None)
            models, names = settings.learning.models, [model.name for model in settings.pool]
            overlay = _with_change(self._overlay(settings), prepared.wanted, names)
            if artifact_id(artifact_folder(settings)) != change.base_id:
                after = prepared.after if overlay == self._overlay(settings) else self.load(overlay)
                change = self.work_out(replace(prepared, before=settings, after=after), result)
            home, linked = artifact_home(settings)
            if change.folder is not None and not linked:
                place = change.folder if models is None else home / artifact.CURRENT
                overlay = replace(overlay, artifact=str(place))
            if prepared.wanted.action == "remove" and models is not None:
                write_overlay(models.overlay, overlay)  # nobody is to be sent to it from here on
            if change.folder is not None and (linked or models is not None):
                promote_artifact(change.folder, reason=f"models {prepared.wanted.action}")
            if models is not None:
                write_overlay(models.overlay, overlay)
            elif overlay != Overlay():
                raise ConfigError(
                    "without learning.models.overlay there is no place for what has to change in the configuration; "
                    f"write it there, the artifact is {'in effect' if linked else 'written'}:\n{overlay.text()}"
                )
        if prepared.plan is not None:
            self.answers(prepared).forget()
        return change

    # Parts

    def _overlay(self, settings: Settings) -> Overlay:
        return Overlay() if settings.learning.models is None else read_overlay(settings.learning.models.overlay)

    def _engine(self, settings: Settings) -> RoutingEngine:
        from llmrouter.encoders import load_encoder

        encoder = None if settings.router.encoder is None else load_encoder(settings.router.encoder)
        return artifact.load(
            artifact_folder(settings), settings.cards, policy=build_policy(settings.policy), encoder=encoder
        )

    def _prompts(self, settings: Settings, *, required: bool) -> OutcomeTable | None:
        try:
            table = None if self._table is None else self._table(settings)
        except DataError:
            if required:
                raise
            return None
        if table is None:
            return None
        rows = [row for row, text in enumerate(table.texts) if text]
        if not rows:
            if required:
                raise DataError(f"{table.name or 'the table'} has no prompt with a text; log.prompts must be text")
            return None
        return table.select(rows)

    def _texts(self, prepared: Prepared) -> list[str]:
        table = prepared.table if prepared.table is not None else self._prompts(prepared.before, required=False)
        if table is None:
            return []
        texts = list(table.router_texts())
        rows = np.linspace(0, len(texts) - 1, min(len(texts), MOST_PLACED)).astype(np.int64)
        return [texts[row] for row in rows.tolist()]

    def _changed(
        self, engine: RoutingEngine, prepared: Prepared, result: ProfileResult | None
    ) -> tuple[TrainedRouters, dict[str, Any]]:
        wanted, trained = prepared.wanted, engine.trained
        if wanted.action == "remove":
            return (without_model(trained, wanted.name) if wanted.name in trained.models else trained), {}
        if wanted.action == "reprice":
            old, new = _price_of(prepared.before, wanted.name), _price_of(prepared.after, wanted.name)
            facts = {"old_price": _shown(old), "price": _shown(new)}
            known = wanted.name in trained.models
            return (repriced(trained, wanted.name, old=old, new=new) if known else trained), facts
        return self._with_new(engine, prepared, result)

    def _with_new(
        self, engine: RoutingEngine, prepared: Prepared, result: ProfileResult | None
    ) -> tuple[TrainedRouters, dict[str, Any]]:
        wanted, trained = prepared.wanted, engine.trained
        name, price = wanted.new_name, prepared.model.price.price
        if name in trained.models:  # it was added before, from less: that is forgotten
            trained = without_model(trained, name)
        X = self._population(prepared, trained)
        facts: dict[str, Any] = {"how": wanted.how, "price": _shown(price)}
        replaces = wanted.name if wanted.action == "replace" else None
        prices = {model.name: model.price.price for model in prepared.before.pool}
        if wanted.how == "zero-shot" and replaces is not None:
            changed = replaced(trained, replaces, name, std=wanted.std, X=X)
            return changed, {**facts, **_quality_facts(changed, name, X)}
        prior = None
        if wanted.how == "zero-shot" or wanted.card is not None:
            prior = card_prior(trained, price, wanted.card, prices=prices)
            facts["evidence"] = list(prior.evidence)
        if wanted.how == "zero-shot":
            assert prior is not None  # noqa: S101 - for the type checker: see above
            if wanted.descriptor is not None:
                changed = with_described(trained, name, prior, X, wanted.descriptor, wanted.known)
                facts["evidence"] += [f"a descriptor ({wanted.descriptor.kind})"]
            else:
                changed = with_prior(trained, name, prior, X)
            return changed, {**facts, **_quality_facts(changed, name, X)}
        table, embedded = prepared.table, prepared.X
        if wanted.how == "scores":
            scored = scored_from_rows(trained, wanted.rows, price=price, encoder=engine.encoder, table=table)
        elif table is None or embedded is None:
            raise DataError("there are no prompts to learn from")
        elif wanted.how == "log":
            scored = scored_from_table(trained, table, embedded, name)
        elif prepared.plan is None or result is None:
            raise DataError("the profile has not been run")
        else:
            scored = scored_from_profile(trained, prepared.plan, result, table, embedded)
            facts |= {"spent_usd": result.spent_usd, "failed": len(result.failures)}
        changed = with_scored(trained, name, scored, X, prior=prior)
        facts |= {"scored": int(np.isfinite(scored.quality).sum()), "scored_mean": float(np.nanmean(scored.quality))}
        if replaces is not None:
            changed = without_model(changed, replaces) if replaces in changed.models else changed
        return changed, {**facts, **_quality_facts(changed, name, X)}

    def _population(self, prepared: Prepared, trained: TrainedRouters) -> FloatArray:
        if prepared.X is not None:
            return prepared.X
        if trained.calibration is not None:
            return np.asarray(trained.calibration.embeddings, dtype=np.float32)
        return np.empty((0, 0), dtype=np.float32)


async def close_scorer(scorer: Scorer) -> None:
    """Release what a scorer holds, where it holds anything."""
    if isinstance(scorer, JudgeScorer):
        await scorer.aclose()
    elif isinstance(scorer, ReferenceScorer):
        scorer.close()


def _with_change(overlay: Overlay, wanted: Wanted, names: Sequence[str]) -> Overlay:
    """Return the overlay with what is wanted; checks names against the pool."""
    if wanted.action in ("remove", "replace", "reprice") and wanted.name not in names:
        raise UnknownModelError(wanted.name, known=tuple(names))
    if wanted.action == "remove":
        return overlay.without(wanted.name)
    if wanted.action == "reprice":
        return overlay.with_price(wanted.name, wanted.price or {})
    if wanted.entry is None:
        if wanted.name not in names:
            raise ConfigError(
                f"{wanted.name!r} is not in the pool; say how it is reached: --entry FILE, or --base-url and --price"
            )
        return overlay
    if wanted.new_name in names:
        raise ConfigError(f"{wanted.new_name!r} is in the pool already; choose another name, or leave the entry out")
    changed = overlay.with_entry(wanted.entry)
    return changed.without(wanted.name) if wanted.action == "replace" else changed


def _check_unknown(trained: TrainedRouters, wanted: Wanted) -> None:
    if wanted.new_name in trained.models and (
        wanted.action == "replace" or how_known(wanted.new_name, trained) == TRAINED
    ):
        raise ConfigError(
            f"the artifact was trained on {wanted.new_name!r}; train it again, or add a model of another name"
        )
    if wanted.action == "replace" and wanted.how == "zero-shot" and wanted.name not in trained.models:
        raise UnknownModelError(wanted.name, known=trained.models)


def _price_of(settings: Settings, name: str) -> Price:
    return next(model.price.price for model in settings.pool if model.name == name)


def _shown(price: Price) -> dict[str, float]:
    return {"input": price.input, "output": price.output}


def _quality_facts(trained: TrainedRouters, name: str, X: FloatArray) -> dict[str, Any]:
    """Return what the changed router expects of the model, on average over prompts of the traffic."""
    facts: dict[str, Any] = {"quality": trained.mean_quality.get(name)}
    estimate = getattr(trained.quality, "estimate", None)
    if estimate is not None and len(X):
        rows = np.linspace(0, len(X) - 1, min(len(X), MOST_PLACED)).astype(np.int64)
        facts["standard_error"] = float(estimate(X[rows])[1][:, trained.models.index(name)].mean())
    return facts
