"""One file per resource; each validates, calls the store, and answers. No rule of the domain lives here."""
