"""The version of the report's form, which the worker writes into each report and the API describes.

A change that readers of the old form could misread gets a new number; fields may be added under the same one.
"""

REPORT_SCHEMA = "urn:unlearning-service:report:1"
