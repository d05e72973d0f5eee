# MiniGPT-4 on Llama-2-7B-chat, put together from the files that checkpoints/minigpt4/config.json names.
# top_k and threshold are those of the paper's baselines/. It has no figure 5: its language model was frozen in training.
model_path=checkpoints/minigpt4
result_path=results/coco/minigpt4
top_k=10
threshold=0.5
base_model=checkpoints/Llama-2-7b-chat-hf
