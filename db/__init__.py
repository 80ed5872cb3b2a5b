"""The store: what a campaign knows and has decided, behind one door, :class:`db.store.Store`; no torch."""
