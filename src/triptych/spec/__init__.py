"""What a user declares, as frozen pydantic models: model, device, deployment, workload, SLO.

Reads YAML with units and tells what is wrong in one line. Of what is declared it computes what follows from
that alone, such as the parameters of a model; times and memory are the matter of `cost`.
"""
