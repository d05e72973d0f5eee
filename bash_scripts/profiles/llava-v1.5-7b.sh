# LLaVA-1.5-7B as published (liuhaotian/llava-v1.5-7b), or else in the transformers layout (llava-hf/llava-1.5-7b-hf).
# Needs, by estimate (weights in half precision, and a quarter of that to work in): 14 GB of files, 18 GB of GPU memory.
model_path="checkpoints/llava-v1.5-7b | checkpoints/llava-1.5-7b-hf"
result_path=results/coco/llava-v1.5-7b
base_model=checkpoints/vicuna-7b-v1.5
reference_model=checkpoints/llava-v1.5-7b-pretrain
training_steps=checkpoints/llava-v1.5-7b-instruction-tuning
training_checkpoints="checkpoint-500 checkpoint-1000 checkpoint-1500 checkpoint-2000 checkpoint-2500 checkpoint-3000 checkpoint-3500 checkpoint-4000 checkpoint-4500 checkpoint-5000"
paper_values=yes
