"""A service over three nodes loses one of them under load: callers that repeat see no fault, and it is whole again."""

from tests.nodes import run_program

PROGRAM = """
import sys, threading, time
import psutil
from ray import serve
from cnnray.client import Client
from cnnray.config import ServeConfig
from cnnray.errors import CnnrayError
from cnnray.serve.app import down, up
from tests.browsing import encoded
from tests.classifiers import save_classifier
from tests.nodes import start_nodes
from tests.painters import draw_photo

cluster, others = start_nodes(3)
checkpoint = save_classifier(sys.argv[1])
url = up(ServeConfig(classifier=checkpoint, replicas=2, port=0))
photo = encoded(draw_photo(), "PNG")
answers, faults, stop = [], [], threading.Event()

def running():
    return serve.status().applications["cnnray"].deployments["Classifier"].replica_states.get("RUNNING", 0)

def replicas_of(node):
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [child for child in raylet.children() if "ServeReplica:cnnray:Classifier" in " ".join(child.cmdline())]

def ask():
    with Client(url, patience=90) as client:
        try:
            while not stop.is_set():
                answers.append(client.classify(photo).label)
        except CnnrayError as error:
            faults.append(str(error))

with Client(url) as client:
    right = client.classify(photo).label
threads = [threading.Thread(target=ask) for _ in range(3)]
for thread in threads:
    thread.start()
while len(answers) < 30:
    time.sleep(0.05)
lost = next(node for node in others if replicas_of(node))
began = time.monotonic()
cluster.remove_node(lost, allow_graceful=False)
asked = len(answers)
while running() == 2:
    assert time.monotonic() < began + 60, "nobody has seen that it is lost"
    time.sleep(0.2)
while running() < 2:
    assert time.monotonic() < began + 120, "it is not whole again"
    time.sleep(0.2)
whole = time.monotonic() - began
stop.set()
for thread in threads:
    thread.join(100)
    assert not thread.is_alive()
down()
assert not faults, faults
assert set(answers) == {right} and len(answers) > asked, (right, answers[:5])
print(f"whole again after {whole:.0f} s, {len(answers)} answers")
sys.stdout.flush()
"""


def test_a_lost_node_is_no_fault_for_callers_that_repeat(tmp_path):
    done = run_program(PROGRAM, tmp_path / "classifier")
    # the exit code says no more: Ray ends the driver of a cluster that has lost nodes with 1
    assert "whole again after" in done.stdout, done.stderr[-3000:]
