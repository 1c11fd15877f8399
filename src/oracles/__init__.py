"""Linear regressions trained here against closed-form results: theory/ has the formulas, each module a comparison."""
