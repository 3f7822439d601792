"""What several nodes say of their metrics, put together as Prometheus reads it."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cnnray.serve.metrics import put_together

NODE = """# HELP python_info Python platform information
# TYPE python_info gauge
python_info{{version="3.11"}} 1.0
# HELP ray_cnnray_requests_total requests by route and status
# TYPE ray_cnnray_requests_total counter
ray_cnnray_requests_total{{NodeAddress="{node}",otel_scope_name="ray.x",otel_scope_version="",route="/v1/a"}} 2.0
# HELP ray_cnnray_batch_size images of a batch
# TYPE ray_cnnray_batch_size histogram
ray_cnnray_batch_size_bucket{{NodeAddress="{node}",le="1.0",otel_scope_name="ray.x",model="m"}} 1.0
ray_cnnray_batch_size_bucket{{NodeAddress="{node}",le="+Inf",otel_scope_name="ray.x",model="m"}} 3.0
ray_cnnray_batch_size_count{{NodeAddress="{node}",otel_scope_name="ray.x",model="m"}} 3.0
ray_cnnray_batch_size_sum{{NodeAddress="{node}",otel_scope_name="ray.x",model="m"}} 4.5
"""


def test_prometheus_reads_what_two_nodes_say_together():
    text = put_together([NODE.format(node="10.0.0.1"), NODE.format(node="10.0.0.2"), ""])
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert set(families) == {"ray_cnnray_requests", "ray_cnnray_batch_size"}
    assert families["ray_cnnray_requests"].documentation == "requests by route and status"
    samples = families["ray_cnnray_requests"].samples
    assert [sample.labels["NodeAddress"] for sample in samples] == ["10.0.0.1", "10.0.0.2"]
    assert sum(sample.value for sample in samples) == 4 and "otel" not in text
    sizes = families["ray_cnnray_batch_size"]
    assert sizes.type == "histogram" and len(sizes.samples) == 8
    assert text.count("# TYPE") == text.count("# HELP") == 2


@pytest.mark.parametrize("texts", [[], [""], ["# HELP other x\n# TYPE other gauge\nother 1\n"]])
def test_nodes_that_have_nothing_of_ours_say_nothing(texts):
    assert put_together(texts) == ""
