"""Every table, one file for each area. "Model" here always means a neural network; a database class is a table."""

from service.store.tables.access import ApiKey, IdempotencyKey
from service.store.tables.artifact_stores import OwnArtifactStore
from service.store.tables.audit import AuditCheckpoint, AuditEntry, AuditHead, AuditLink, AuditTile, AuditTree
from service.store.tables.base import Base, Json, table_of
from service.store.tables.certificates import Certificate
from service.store.tables.datasets import Dataset, Sample, Suppression
from service.store.tables.decisions import RequestDecision
from service.store.tables.erasures import ErasedToken, JournalHead, Restore
from service.store.tables.id_checks import IdCheck
from service.store.tables.jobs import Attempt, Evaluation, EvaluationFigure, EvaluationPlot, Job, JobRequest, Worker
from service.store.tables.models import Model, PreparedFile, ReferenceFile, Version, VersionExclusion
from service.store.tables.notices import DutyLease, Event, WebhookDelivery, WebhookEndpoint, WebhookEvent
from service.store.tables.requests import DeletionRequest, RequestKey, RequestSample
from service.store.tables.retirement import DatasetCache, Recipient, Residual, Withdrawal
from service.store.tables.schema import SchemaCompatibility
from service.store.tables.signing_keys import SigningKey
from service.store.tables.traces import FileTrace
from service.store.tables.training_checkpoints import TrainingCheckpoint

__all__ = [
    "ApiKey",
    "Attempt",
    "AuditCheckpoint",
    "AuditEntry",
    "AuditHead",
    "AuditLink",
    "AuditTile",
    "AuditTree",
    "Base",
    "Certificate",
    "Dataset",
    "DatasetCache",
    "DeletionRequest",
    "DutyLease",
    "ErasedToken",
    "Evaluation",
    "EvaluationFigure",
    "EvaluationPlot",
    "Event",
    "FileTrace",
    "IdCheck",
    "IdempotencyKey",
    "Job",
    "JobRequest",
    "JournalHead",
    "Json",
    "Model",
    "OwnArtifactStore",
    "PreparedFile",
    "Recipient",
    "ReferenceFile",
    "RequestDecision",
    "RequestKey",
    "RequestSample",
    "Residual",
    "Restore",
    "Sample",
    "SchemaCompatibility",
    "SigningKey",
    "Suppression",
    "TrainingCheckpoint",
    "Version",
    "VersionExclusion",
    "WebhookDelivery",
    "WebhookEndpoint",
    "WebhookEvent",
    "Withdrawal",
    "Worker",
    "table_of",
]
