"""How the tables of an older megaflow become those of this one; `store.opening` runs them."""
