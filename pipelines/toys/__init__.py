"""`twostage toys`: why codes die, in two dimensions, after "Beyond Stationarity" (2026), supplement 11."""
