# LLaVA-1.5-7B under the conditions of the paper's comparison of decoding methods: no blank before "USER:", the centre of an
# image instead of padding, sentences with "unk" in them dropped, AD-HH at 0.5. For baselines/bash_scripts/*.sh with
# --heads published; attribution stops at captions that lost a sentence. Fine-tune under llava-v1.5-7b; to evaluate such a
# model here, name it in the config.json of a folder like checkpoints/llava-v1.5-7b-harness/
inherit=llava-v1.5-7b
model_path=checkpoints/llava-v1.5-7b-harness
result_path=results/coco/llava-v1.5-7b-harness
threshold=0.5
# figures 4 and 5 were made under the other conditions
base_model=
training_checkpoints=
paper_values=
