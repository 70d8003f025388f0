"""launch/clusters/gke_jobset.yaml: fields, flags, and the cluster it makes."""

import pathlib
import shlex

import jsonschema_rs
import yaml
from test_docs import Block, problems_of

from holorec_jax import processes
from holorec_jax.train import preemption

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
JOBSET = ROOT / "launch" / "clusters" / "gke_jobset.yaml"


def strict(required: dict, optional: dict | None = None) -> dict:
  """The JSON schema of an object with these fields and no others."""
  return {
    "type": "object",
    "properties": required | (optional or {}),
    "required": list(required),
    "additionalProperties": False,
  }


# As JobSet's admission webhook wants the names of rules.
RULE = {"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"}


def several(item: dict) -> dict:
  return {"type": "array", "items": item, "minItems": 1}


TEXT, NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}
ENV = strict(
  {"name": TEXT},
  {
    "value": TEXT,
    "valueFrom": strict({"fieldRef": strict({"fieldPath": TEXT})}),
  },
)
CONTAINER = strict(
  {"name": TEXT, "image": TEXT, "command": several(TEXT)},
  {
    "workingDir": TEXT,
    "env": several(ENV),
    "ports": several(strict({"containerPort": NUMBER})),
    "resources": strict(
      {"limits": {"type": "object", "additionalProperties": NUMBER}}
    ),
    "volumeMounts": several(strict({"name": TEXT, "mountPath": TEXT})),
  },
)
POD = strict(
  {"restartPolicy": {"const": "Never"}, "containers": several(CONTAINER)},
  {
    "terminationGracePeriodSeconds": NUMBER,
    "nodeSelector": {"type": "object", "additionalProperties": TEXT},
    "volumes": several(
      strict(
        {"name": TEXT},
        {
          "persistentVolumeClaim": strict({"claimName": TEXT}),
          "emptyDir": strict({"medium": {"const": "Memory"}}),
        },
      )
    ),
  },
)
JOB = strict(
  {
    "parallelism": NUMBER,
    "completions": NUMBER,
    "completionMode": {"const": "Indexed"},
    "backoffLimit": {"const": 0},
    "template": strict({"spec": POD}),
  },
  {
    "podFailurePolicy": strict(
      {
        "rules": several(
          strict(
            {
              "action": {"enum": ["FailJob", "Ignore", "Count"]},
              "onExitCodes": strict(
                {
                  "containerName": TEXT,
                  "operator": {"enum": ["In", "NotIn"]},
                  "values": several(NUMBER),
                }
              ),
            }
          )
        )
      }
    )
  },
)
ACTIONS = [
  "FailJobSet",
  "RestartJobSet",
  "RestartJobSetAndIgnoreMaxRestarts",
]
# Of jobset.x-k8s.io/v1alpha2, batch/v1 and v1 the fields that we may use.
SCHEMA = strict(
  {
    "apiVersion": {"const": "jobset.x-k8s.io/v1alpha2"},
    "kind": {"const": "JobSet"},
    "metadata": strict({"name": TEXT}),
    "spec": strict(
      {
        "coordinator": strict(
          {"replicatedJob": TEXT, "jobIndex": NUMBER, "podIndex": NUMBER}
        ),
        "failurePolicy": strict(
          {"maxRestarts": NUMBER},
          {
            "rules": several(
              strict(
                {"name": RULE, "action": {"enum": ACTIONS}},
                {"onJobFailureReasons": several(TEXT)},
              )
            )
          },
        ),
        "replicatedJobs": several(
          strict(
            {"name": TEXT, "template": strict({"spec": JOB})},
            {"replicas": NUMBER},
          )
        ),
      }
    ),
  }
)


def test_jobset():
  tree = yaml.safe_load(JOBSET.read_text())
  jsonschema_rs.validate(SCHEMA, tree)
  spec = tree["spec"]
  (jobs,) = spec["replicatedJobs"]
  assert spec["coordinator"] == {
    "replicatedJob": jobs["name"],
    "jobIndex": 0,
    "podIndex": 0,
  }
  job = jobs["template"]["spec"]
  pod = job["template"]["spec"]
  (container,) = pod["containers"]
  # What a person has to mend, or was given up, is not started again.
  (rule,) = job["podFailurePolicy"]["rules"]
  assert rule["onExitCodes"] == {
    "containerName": container["name"],
    "operator": "NotIn",
    "values": [preemption.EXIT_CODE, 128 + 9, 128 + 15],
  }
  (policy,) = spec["failurePolicy"]["rules"]
  assert policy["onJobFailureReasons"] == ["PodFailurePolicy"]
  # What the pods are told is a cluster.
  environment: dict[str, str] = {}
  for each in container["env"]:
    # Of a field that JobSet fills in; what is used has to come before.
    value = each.get("value", "holorec-workers-0-0.holorec")
    for known in environment:
      value = value.replace(f"$({known})", environment[known])
    environment[each["name"]] = value
  found = processes.find_cluster(environment | {"JOB_COMPLETION_INDEX": "3"})
  port = container["ports"][0]["containerPort"]
  assert found == {
    "coordinator_address": f"holorec-workers-0-0.holorec:{port}",
    "num_processes": job["parallelism"],
    "process_id": 3,
  }
  assert job["completions"] == job["parallelism"]
  mounted = {each["name"] for each in container["volumeMounts"]}
  assert mounted == {each["name"] for each in pod["volumes"]}
  command = shlex.join(container["command"])
  assert problems_of(Block(JOBSET.name, "bash", "", command)) == []
