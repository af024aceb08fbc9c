"""The experiment of 2020 with each worker on a machine of its own.

It differs from article.py in the lines that make the workers: each is a node (`cloister node serve node.toml`) whose
owner has named this researcher's key. Addresses and fingerprints come from the environment:

    BOB=bob.example:7443 BOB_KEY=sha256:... ALICE=... ALICE_KEY=... SECURE_WORKER=... SECURE_WORKER_KEY=... \\
    RESEARCHER=carol.key python examples/article_network.py
"""

import os

import torch
from torch import nn, optim
import cloister as sy                      # the experiment: import syft as sy

hook = sy.TorchHook(torch)
me = os.environ["RESEARCHER"]
bob = sy.connect(os.environ["BOB"], identity=me, peer=os.environ["BOB_KEY"])
alice = sy.connect(os.environ["ALICE"], identity=me, peer=os.environ["ALICE_KEY"])
secure_worker = sy.connect(os.environ["SECURE_WORKER"], identity=me, peer=os.environ["SECURE_WORKER_KEY"])

data = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1.]], requires_grad=True)
target = torch.tensor([[0], [0], [1], [1.]], requires_grad=True)
bobs_data, bobs_target = data[0:2].send(bob), target[0:2].send(bob)
alices_data, alices_target = data[2:].send(alice), target[2:].send(alice)

model = nn.Linear(2, 1)
iterations, worker_iters = 10, 5
for a_iter in range(iterations):
    bobs_model, alices_model = model.copy().send(bob), model.copy().send(alice)
    bobs_opt = optim.SGD(params=bobs_model.parameters(), lr=0.1)
    alices_opt = optim.SGD(params=alices_model.parameters(), lr=0.1)
    for wi in range(worker_iters):
        bobs_opt.zero_grad()
        bobs_pred = bobs_model(bobs_data)
        bobs_loss = ((bobs_pred - bobs_target) ** 2).sum()
        bobs_loss.backward()
        bobs_opt.step()
        bobs_loss = bobs_loss.get().data
        alices_opt.zero_grad()
        alices_pred = alices_model(alices_data)
        alices_loss = ((alices_pred - alices_target) ** 2).sum()
        alices_loss.backward()
        alices_opt.step()
        alices_loss = alices_loss.get().data
    alices_model.move(secure_worker)
    bobs_model.move(secure_worker)
    with torch.no_grad():
        model.weight.set_(((alices_model.weight.data + bobs_model.weight.data) / 2).get())
        model.bias.set_(((alices_model.bias.data + bobs_model.bias.data) / 2).get())
    print("Bob:" + str(bobs_loss) + " Alice:" + str(alices_loss))
preds = model(data)
loss = ((preds - target) ** 2).sum()
