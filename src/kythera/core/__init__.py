"""The grammar: design spaces, stages, pipelines, objectives, problems, evaluations."""
