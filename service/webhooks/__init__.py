"""Telling receivers elsewhere: where to, signed how, sent by whom. What is to be told stands in the store's outbox."""
