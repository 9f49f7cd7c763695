"""The SQL store: tables, sessions, and one file of plain functions per aggregate, session first."""
