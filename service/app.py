"""Assembles the HTTP side. Importing this imports neither torch nor numpy; a test says so."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from service import certifying, checkpointing, clock, faults, heap, journaling, key_use, openapi, problems, shredding
from service.body_limit import BodyLimit, NoNulInUrl, Pace
from service.deps import Parts
from service.dispatch import Bell
from service.draining import Draining
from service.duties import Duties, Duty
from service.evidence.commitments import suppression_key
from service.evidence.key_wrapping import wrapping_key
from service.next_link import NextLink
from service.own_artifacts import OwnArtifacts
from service.rate_limits import Meter, RateLimits, limits_of
from service.request_ids import RequestIds
from service.restore_gate import RestoreGate, ShutUntilReplayed
from service.routes import (
    approvals,
    architectures,
    audit,
    audit_queries,
    catalogue,
    certificates,
    datasets,
    deletion_requests,
    downloads,
    evaluations,
    events,
    health,
    jobs,
    keys,
    metrics,
    models,
    previews,
    receipts,
    request_decisions,
    residuals,
    suppressions,
    transparency_log,
    versions,
    webhook_deliveries,
    webhooks,
    weights,
    withdrawals,
)
from service.settings import Settings
from service.store.intake import Secrets
from service.store.session import Database
from service.unforeseen import Unforeseen
from service.webhooks.courier import Courier

_ROUTES = (
    health, datasets, models, versions, weights, previews, deletion_requests, approvals, events, jobs, evaluations,
    catalogue, audit, keys, request_decisions, metrics, residuals, downloads, withdrawals, receipts, suppressions,
    webhooks, webhook_deliveries, certificates,
    audit_queries, transparency_log, architectures,
)  # fmt: skip
_DUTIES: tuple[Duty, ...] = (
    Duty(name="request_keys", every_seconds=600, run=shredding.shred_expired),
    Duty(name="file_traces", every_seconds=5, run=shredding.scrub_files),
    clock.DUTY,
    key_use.DUTY,
    certifying.DUTY,
    checkpointing.DUTY,
    journaling.DUTY,
    Duty(name="memory", every_seconds=30, run=lambda _: heap.give_back(), everywhere=True),
)


def create_app(settings: Settings) -> FastAPI:
    """Return the application; what it holds open is closed when its lifespan ends."""
    faults.arm(settings.fault_points)
    database = Database.open(settings)
    parts = Parts(
        settings=settings,
        database=database,
        artifacts=OwnArtifacts(settings.resolved_artifacts_url, database),
        bell=Bell(settings),
        secrets=Secrets(
            suppression=suppression_key(settings.master_key_bytes),
            wrapping=wrapping_key(settings.master_key_bytes),
            time_zone=settings.time_zone,
            approval_above_share=settings.approval_above_share,
        ),
    )

    gate = RestoreGate(parts.database)
    courier = Courier(parts)
    duties = Duties(parts, (*_DUTIES, courier.duty), idle=lambda: not gate.opened and gate.due())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        shredding.wrap_keys_if_there(parts)
        parts.artifacts.why_wrong()  # before the first bytes come; `/readyz` tells what it finds
        duties.start()
        yield
        duties.stop()
        courier.stop()
        parts.bell.close()
        parts.database.dispose()

    app = FastAPI(
        title="Unlearning Service",
        version=version("unlearning-service"),
        summary="Removes named training samples from PyTorch models, measures whether it worked, keeps the evidence.",
        lifespan=lifespan,
        # Every route but health needs a key, the description of the routes too; the pages that read it could send none.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        # A path has one spelling; a redirect would be an answer that no operation speaks of.
        redirect_slashes=False,
    )
    app.state.parts = parts
    problems.install(app)
    app.add_middleware(ShutUntilReplayed, gate=gate)
    app.add_middleware(NoNulInUrl)
    app.add_middleware(
        BodyLimit,
        json_bytes=settings.max_body_bytes,
        weights_bytes=settings.max_weights_bytes,
        pace=Pace(seconds=settings.body_seconds, bytes_per_second=settings.body_bytes_per_second),
    )
    app.add_middleware(NextLink)
    app.add_middleware(RateLimits, limits=limits_of(settings), meter=Meter.of(settings), seen=parts.seen)
    app.add_middleware(Draining, draining=parts.draining)
    app.add_middleware(Unforeseen)  # stands around the others
    app.add_middleware(RequestIds)  # and around that, so that its line has the id too
    for route in _ROUTES:
        app.include_router(route.router)
    app.include_router(catalogue.description)
    openapi.install(app)
    return app
