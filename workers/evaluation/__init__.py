"""The metrics by family; the report runs them all."""

from collections.abc import Callable

from workers.evaluation.against_retrained import avg_gap, avg_gap_with_mia, prediction_agreement, tow
from workers.evaluation.confusion import confusion
from workers.evaluation.forget_error import forget_error
from workers.evaluation.generation.figures import fid, frechet, generation_accuracy, generation_drop
from workers.evaluation.generation.losses import loss_rise
from workers.evaluation.generation.relearning import relearning_results
from workers.evaluation.js_divergence import js_divergence
from workers.evaluation.klom import klom
from workers.evaluation.lira import lira_offline, lira_online
from workers.evaluation.mia_entropy_lr import mia_entropy_lr
from workers.evaluation.mia_loss_lr import mia_loss_lr
from workers.evaluation.mia_svc import mia_svc
from workers.evaluation.mia_threshold import mia_threshold
from workers.evaluation.relearning import relearning
from workers.evaluation.relearning_fresh_head import head_delay
from workers.evaluation.relearning_thorough import anamnesis, thorough_results
from workers.evaluation.result import MetricResult
from workers.evaluation.retain_side import retain_harm
from workers.evaluation.retain_side_attack import attack_results
from workers.evaluation.rf_jsd import rf_jsd
from workers.evaluation.rmia import rmia
from workers.evaluation.u_lira import u_lira
from workers.evaluation.utility import accuracy_and_loss, gone_class_accuracy, utility, weight_distance

METRICS: dict[str, Callable[..., MetricResult | list[MetricResult]]] = {
    "accuracy": accuracy_and_loss,
    "gone_class_accuracy": gone_class_accuracy,
    "loss": accuracy_and_loss,
    "utility_drop": utility,
    "class_accuracy_drop": utility,
    "disagreement": utility,
    "weight_distance": weight_distance,
    "ic_err": confusion,
    "fgt_err": confusion,
    "forget_error": forget_error,
    "mia_threshold": mia_threshold,
    "mia_loss_lr": mia_loss_lr,
    "mia_entropy_lr": mia_entropy_lr,
    "mia_svc": mia_svc,
    "lira_offline": lira_offline,
    "lira_online": lira_online,
    "rmia": rmia,
    "u_lira": u_lira,
    "relearning_delay": relearning,
    "relearning_accuracy_delay": relearning,
    "relearning_area": relearning,
    "relearning_path_length": relearning,
    "relearning_ratio": relearning,
    "avg_gap": avg_gap,
    "avg_gap_with_mia": avg_gap_with_mia,
    "tow": tow,
    "js_divergence": js_divergence,
    "prediction_agreement": prediction_agreement,
    "klom": klom,
    "rf_jsd": rf_jsd,
    "retain_harm": retain_harm,
    "anamnesis": anamnesis,
    "relearning_thorough": thorough_results,
    "relearning_head_delay": head_delay,
    "retain_side_delay": attack_results,
    "retain_side_attack": attack_results,
    "generation_accuracy": generation_accuracy,
    "generation_drop": generation_drop,
    "frechet_distance": frechet,
    "fid": fid,
    "loss_rise": loss_rise,
    "relearning_adam": relearning_results,
}
