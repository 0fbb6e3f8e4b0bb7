"""Ask the demo's model a question through its OpenAI-compatible API, with OpenAI's own client."""

import sys
from pathlib import Path

from openai import OpenAI

from cluster.inventory import load
from cluster.plan import make_plan

plan = make_plan(load(Path(__file__).parent.parent / "inventory/local.yaml"))
client = OpenAI(base_url=f"{plan.url}/v1", api_key="none")
question = " ".join(sys.argv[1:])
answer = client.chat.completions.create(
    model=plan.served_name, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=60
)
print(f"\n  {question}\n  {answer.choices[0].message.content}\n")
print("Look around:    .venv/bin/clusterctl status inventory/local.yaml")
print("                .venv/bin/clusterctl logs -f inventory/local.yaml")
print(f"                curl {plan.url}/v1/models")
print("Take it down:   make clean-demo")
