"""The store of a campaign: materials, labels, models, rounds and queue, through :class:`db.store.Store`; no torch."""
